"""Two rules about the door to the C core: one file imports the compiled module, and both sides agree on every struct."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dataplane

package = Path(dataplane.__file__).parent


def imported_names(source: str) -> set[str]:
    """Every module and member that the source imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def touches_core(names: set[str]) -> bool:
    return any("_core" in name.split(".") for name in names)


@pytest.mark.parametrize(
    "source",
    [
        "import dataplane._core",
        "from dataplane import _core",
        "from dataplane._core import lib",
        "from . import _core",
        "def f():\n    from ._core import ffi",
    ],
)
def test_the_rule_sees_every_form_of_import(source: str) -> None:
    assert touches_core(imported_names(source))


def test_only_core_imports_the_compiled_module() -> None:
    files = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    assert {name for name, text in files.items() if touches_core(imported_names(text))} == {"core.py"}


@pytest.mark.parametrize("name", ["dp_address", "dp_edges", "dp_config", "dp_peer", "dp_peer_counters", "dp_counters"])
def test_every_struct_can_be_made(name: str) -> None:
    """A field added, reordered or narrowed on one side compiles and imports; it first shows when the struct is made."""
    from dataplane._core import ffi

    assert ffi.sizeof(ffi.new(f"struct {name} *")[0]) > 0


def test_no_struct_is_missing_above() -> None:
    from dataplane._core import ffi

    structs = set(ffi.list_types()[1])
    assert structs == {"dp", "dp_address", "dp_edges", "dp_config", "dp_peer", "dp_peer_counters", "dp_counters"}
