"""The report page."""

from __future__ import annotations

import re

from dataplane.lab.bench.results.document import compose
from dataplane.lab.bench.results.report import page
from tests.lab.bench.samples import samples


def test_report_is_one_page_that_fetches_nothing_and_shows_every_figure() -> None:
    rows = samples("kernel", "tcp1", [10.0, 12.0]) + samples("dataplane", "tcp1", [6.0, 7.0])
    text = page(compose(rows, ["a <failure>"], {"rounds": 2}, "2026-01-01T00:00:00+00:00", 3.0), rows)
    assert "6.50 [6.00–7.00] 0.59" in text
    assert "not reached" in text
    assert "a &lt;failure&gt;" in text
    assert "<svg" in text or "matplotlib is not installed" in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text.replace("xlink:href", "href"))
