"""What a disturbed measurement is."""

from __future__ import annotations

from dataplane.lab.bench.quiet import Quiet, most_attempts


def test_a_disturbed_measurement_is_repeated_for_what_happened_around_it_only() -> None:
    clock = iter(range(10_000))
    shares = iter([0.0, 0.9, 0.5, 0.0, 0.0])  # quiet; disturbed after; wait once; quiet; quiet after
    runs = iter(["first", "second"])
    quiet = Quiet(1000, lambda: next(shares), lambda: float(next(clock)))
    assert quiet.measure(lambda: next(runs)) == ("second", True)
    patient = Quiet(0, lambda: 0.9, lambda: float(next(clock)))
    assert patient.measure(lambda: "kept") == ("kept", False)
    counted: list[int] = []
    shares = iter([0.0, 0.9] * most_attempts)
    restless = Quiet(1e9, lambda: next(shares), lambda: float(next(clock)))
    assert restless.measure(lambda: counted.append(1)) == (None, False)
    assert len(counted) == most_attempts
