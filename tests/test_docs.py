"""The Markdown files: lines of 100 columns, and links that lead somewhere.

Tables, code blocks and lines that hold one word only (a bare link) may be longer. What must stay true: a failure names
file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

root = Path(__file__).parents[1]
width = 100
documents = sorted(
    {*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("deploy/**/*.md"), *root.glob("csrc/*.md")}
)
linking = documents


def name(path: Path) -> str:
    return str(path.relative_to(root))


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Return the numbered lines that are no code block; a block in a list item lies deeper than the item's words."""
    fenced, in_block, after_blank, words_at = False, False, True, 0
    for number, line in enumerate(text.split("\n"), 1):
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not line.strip():
            after_blank = True
        elif not fenced:
            marker = re.match(r" *([-*]|\d+\.) +", line)
            if indent < words_at:
                words_at = 0
            in_block = (in_block or after_blank) and indent >= words_at + 4
            if not in_block:
                words_at = len(marker[0]) if marker else words_at
                yield number, line
            after_blank = False


@cache
def anchors(path: Path) -> set[str]:
    """Return what a link may name behind `#`, spelled as the forge does."""
    headings = (line.lstrip("#") for _, line in prose(path.read_text()) if re.match("#+ ", line))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def dead(path: Path, target: str) -> bool:
    """Say whether a link of the file leads nowhere; what is outside of the tree is not looked at."""
    if re.match(r"[a-z]+:", target):
        return False
    file, _, fragment = unquote(target).partition("#")
    goal = path.parent / file if file else path
    return not goal.exists() or bool(fragment and fragment not in anchors(goal))


@pytest.mark.parametrize("path", documents, ids=name)
def test_lines_are_not_too_long(path: Path) -> None:
    long = [
        f"{name(path)}:{number}: {len(line)} columns, at most {width}"
        for number, line in prose(path.read_text())
        if len(line) > width and not line.lstrip().startswith("|") and " " in line.strip().removeprefix("- ")
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("path", linking, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    lines = ((number, re.sub(r"`[^`]*`", "", line)) for number, line in prose(path.read_text()))
    lost = [
        f"{name(path)}:{number}: {target} is not there"
        for number, line in lines
        for target in re.findall(r"\]\(([^)\s]+)\)", line)
        if dead(path, target)
    ]
    assert not lost, "\n".join(lost)


def test_what_is_prose() -> None:
    text = "\n".join(
        (
            "a",
            "    b",
            "",
            "    code",
            "",
            "    code",
            "c",
            "- d",
            "  e",
            "",
            "      code",
            "",
            "  f",
            "```",
            "code",
            "```",
            "g",
        )
    )
    assert "".join(line.strip(" -") for _, line in prose(text)) == "abcdefg"


@pytest.mark.parametrize("target", ["no.md", "README.md#no-such-heading", "../dataplane"])
def test_a_dead_link_is_one(target: str) -> None:
    assert dead(root / "docs" / "decisions" / "README.md", target)


@pytest.mark.parametrize(
    "target", ["0012-firewall.md", "../README.md", "https://example.net/", "README.md#decisions", "../../csrc"]
)
def test_a_living_link_is_none(target: str) -> None:
    assert not dead(root / "docs" / "decisions" / "README.md", target)
