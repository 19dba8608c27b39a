"""Times the core's pieces: nanoseconds per packet and GB/s, over packet sizes and table sizes.

    pytest bench --benchmark-json=FILE

Each timed call runs a piece some thousand times in C (bench/pieces.c), so that the call itself does not count. What must
stay true: a piece's result is checked once, outside the timing; the data is hot in the cache, so these are lower bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI

library_path = Path(__file__).resolve().parents[1] / "build" / "bench" / "bench" / "pieces.so"
names = ("checksum", "checksum_copy", "lookup", "encap", "decap", "segment", "coalesce")
sizes = (64, 256, 1450, 4096, 16384, 65535)
super_sizes = (4096, 16384, 65535)
peer_counts = (2, 100, 1_000, 10_000)
segment_payload = 1410
bytes_a_call = 16 << 20
most_packets_a_call = 20_000
rounds = 15

ffi = FFI()
ffi.cdef("struct pieces *pieces_new(uint32_t, uint32_t); void pieces_free(struct pieces *);")
ffi.cdef("".join(f"uint64_t pieces_{name}(struct pieces *, uint32_t);" for name in names))


@pytest.fixture(scope="session")
def library() -> Any:
    """The shared library that `make bench` builds."""
    if not library_path.exists():
        pytest.fail(f"{library_path} is missing: meson setup build/bench -Dbench=true && ninja -C build/bench")
    return ffi.dlopen(str(library_path))


@pytest.fixture
def pieces(library: Any, size: int, peers: int) -> Iterator[Any]:
    """A packet of `size` bytes and a table of `peers` peers."""
    made = library.pieces_new(size, peers)
    assert made != ffi.NULL
    yield made
    library.pieces_free(made)


def run(benchmark: Any, library: Any, name: str, pieces: Any, size: int, peers: int, packets: int = 1) -> None:
    """Time one piece; `packets`: wire-size packets in one round of it."""
    count = max(20, min(most_packets_a_call, bytes_a_call // size))
    benchmark.group = name
    benchmark.extra_info.update(piece=name, size=size, peers=peers, count=count, packets=packets)
    benchmark.pedantic(getattr(library, f"pieces_{name}"), (pieces, count), rounds=rounds, warmup_rounds=2)


@pytest.mark.parametrize("peers", [2])
@pytest.mark.parametrize("size", sizes)
@pytest.mark.parametrize("name", ["checksum", "checksum_copy", "encap", "decap"])
def test_by_size(benchmark: Any, library: Any, pieces: Any, name: str, size: int, peers: int) -> None:
    if name == "decap":
        assert library.pieces_decap(pieces, 10) == 10, "the packet must pass every check"
    run(benchmark, library, name, pieces, size, peers)


@pytest.mark.parametrize("peers", peer_counts)
@pytest.mark.parametrize("size", [64])
@pytest.mark.parametrize("name", ["lookup", "encap"])
def test_by_peers(benchmark: Any, library: Any, pieces: Any, name: str, size: int, peers: int) -> None:
    run(benchmark, library, name, pieces, size, peers)


@pytest.mark.parametrize("peers", [2])
@pytest.mark.parametrize("size", super_sizes)
@pytest.mark.parametrize("name", ["segment", "coalesce"])
def test_super_packets(benchmark: Any, library: Any, pieces: Any, name: str, size: int, peers: int) -> None:
    packets = -(-(size - 40) // segment_payload)
    if name == "coalesce":
        assert library.pieces_coalesce(pieces, 10) == 10, "all packets must be joined into one write"
    run(benchmark, library, name, pieces, size, peers, packets)
