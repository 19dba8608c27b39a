"""deploy/Containerfile, as far as it can be judged without building: what it takes from the repository is there."""

from __future__ import annotations

import re
import tomllib

from tests.deploy.rendering import root

text = (root / "deploy/Containerfile").read_text()
project = tomllib.loads((root / "pyproject.toml").read_text())["project"]


def test_every_copied_path_exists_and_the_build_has_what_it_reads() -> None:
    copied = [path for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for path in line.split()]
    assert all((root / path).exists() for path in copied)
    assert {"pyproject.toml", "meson.build", "csrc", "dataplane", project["readme"], *project["license-files"]} <= set(
        copied
    )


def test_extras_and_command_are_the_distributions() -> None:
    (extras,) = re.findall(r"'\.\[(.*)\]'", text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)
    assert entry in project["scripts"]


def test_no_step_knows_an_architecture() -> None:
    steps = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert not re.search(r"amd64|arm64|x86_64|aarch64|march|mtune", steps)
