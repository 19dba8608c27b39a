"""The CNI plugin as one executable file: `#!` line, then a zip of the modules it is made of, which the interpreter runs.

Every module is in it twice: compiled for the interpreter that made it, which saves a third of a start, and as source,
which another version of Python takes instead. What must stay true: the same modules give the same bytes.
"""

from __future__ import annotations

import importlib.util
import io
import marshal
import zipfile
from pathlib import Path

from dataplane.errors import BadInput

longest_first_line = 255  # the kernel's BINPRM_BUF_SIZE, less its end
_rooms = ("cni", "flannel/cni")
_entry = b"from dataplane.cni.plugin import main\n\nmain()\n"


def modules() -> dict[str, bytes]:
    """Return the sources by their names in the archive."""
    package = Path(__file__).parents[1]
    sources = {
        f"dataplane/{room}/{path.name}": path.read_bytes()
        for room in _rooms
        for path in sorted((package / room).glob("*.py"))
    }
    return {"__main__.py": _entry, "dataplane/__init__.py": b"", "dataplane/flannel/__init__.py": b"", **sources}


def archive(python: str) -> bytes:
    """Return the executable file's content.

    Args:
        python: path of the interpreter, absolute, on the host that will run it.

    Raises:
        BadInput: the kernel could not start that.
    """
    # Isolated: neither the runtime's environment nor the host's site-packages have a say in it.
    first_line = f"#!{python} -IS\n".encode()
    if not python.startswith("/") or len(first_line) > longest_first_line or any(c.isspace() for c in python):
        raise BadInput(f"--python {python}: allowed is an absolute path of at most 240 characters without spaces")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:  # stored: importing zlib takes longer than it saves
        for name, source in modules().items():
            if name != "dataplane/cni/__main__.py":
                _put(file, name, source)
                _put(file, f"{name}c", _compiled(source, name))
    return first_line + content.getvalue()


def _compiled(source: bytes, name: str) -> bytes:
    # Header of PEP 552: "unchecked hash", so that nothing depends on the file's time.
    code = marshal.dumps(compile(source, name, "exec", dont_inherit=True, optimize=0))
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    return header + code


def _put(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    file.writestr(zipfile.ZipInfo(name), content)
