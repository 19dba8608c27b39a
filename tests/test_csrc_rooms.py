"""Who may include whom in csrc: the line of rooms in csrc/README.md, held against every include."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

csrc = Path(__file__).parents[1] / "csrc"
files = {path.relative_to(csrc).as_posix(): path.read_text() for path in csrc.rglob("*.[ch]")}


def read_order() -> dict[str, int]:
    """Each room with its height in the line: a file may include what stands in its own room or lower."""
    (line,) = re.findall(r"^    (\w+(?: (?:→|\|) \w+)+)$", (csrc / "README.md").read_text(), re.MULTILINE)
    levels = [level.split(" | ") for level in line.split(" → ")]
    return {room: -depth for depth, level in enumerate(levels) for room in level}


def find_wrong(sources: Mapping[str, str], order: Mapping[str, int]) -> list[str]:
    """Includes that the order does not allow, or that name no room."""
    wrong = []
    for name, text in sources.items():
        own = name.split("/")[0]
        for included in re.findall(r'^\s*#\s*include\s*"(.*)"', text, re.MULTILINE):
            room = "include" if included == "dataplane.h" else included.split("/")[0]
            is_named_right = included != "include/dataplane.h" and room in order
            if not is_named_right or (room != own and order[room] >= order[own]):
                wrong.append(f"{name}: {included}")
    return wrong


def test_every_file_is_in_a_room_of_the_order_and_every_room_has_files() -> None:
    assert {name.split("/")[0] for name in files} == set(read_order())


def test_includes_go_down() -> None:
    assert find_wrong(files, read_order()) == []


def test_every_included_header_is_there() -> None:
    included = {name for text in files.values() for name in re.findall(r'^#include "(.*)"', text, re.MULTILINE)}
    assert {"include/dataplane.h" if name == "dataplane.h" else name for name in included} <= set(files)


@pytest.mark.parametrize(
    ("name", "included", "is_right"),
    [
        ("run/worker.c", "send/send.h", True),
        ("send/send.c", "send/send.h", True),
        ("packet/icmp.h", "dataplane.h", True),
        ("send/send.c", "receive/coalesce.h", False),
        ("receive/receive.c", "send/send.h", False),
        ("packet/ip.c", "state/forwarder.h", False),
        ("include/dataplane.h", "packet/ip.h", False),
        ("packet/ip.c", "ip.h", False),
        ("packet/ip.c", "../table/fib.h", False),
        ("packet/icmp.h", "include/dataplane.h", False),
    ],
)
def test_the_rule_sees_each_kind_of_wrong_arrow(name: str, included: str, is_right: bool) -> None:
    assert (find_wrong({name: f'#include <errno.h>\n#include "{included}"\n'}, read_order()) == []) == is_right
