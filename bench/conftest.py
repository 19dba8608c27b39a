"""Shows the pieces' times per packet and per byte at the end, in place of pytest-benchmark's table of whole calls."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print one line a benchmark: median, and least to greatest of the rounds."""
    session = getattr(config, "_benchmarksession", None)
    if session is None or not session.benchmarks:
        return
    terminalreporter.write_sep("-", "ns per packet (median, least–greatest) and GB/s; data hot in the cache")
    for one in session.benchmarks:
        info, stats = one.extra_info, one.stats
        packets = info["count"] * info["packets"]
        per = [value / packets * 1e9 for value in (stats.median, stats.min, stats.max)]
        rate = info["count"] * info["size"] / stats.median / 1e9
        speed = "" if info["piece"] in ("lookup", "encap") else f"{rate:10.2f} GB/s"  # those leave the payload alone
        terminalreporter.write_line(
            f"{info['piece']:14} {info['size']:6} B  {info['peers']:6} peers  "
            f"{per[0]:9.1f} ns  ({per[1]:.1f}–{per[2]:.1f}){'':3}{speed}"
        )
