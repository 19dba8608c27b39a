"""Says a thing once: the log line for a condition that lasts, or that comes back every second."""

from __future__ import annotations

import logging

quiet_s = 60.0
most_subjects = 1000  # remembered; beyond, the one that was said longest ago is forgotten


class Say:
    """Logs a warning unless the same subject was logged within the last minute with the same text."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, tuple[str, float]] = {}

    def warn(self, subject: str, text: str, now: float) -> None:
        """Log `text` about `subject` if it is news at time `now` (seconds)."""
        last = self._said.get(subject)
        self._said.pop(subject, None)
        self._said[subject] = (text, now)
        if len(self._said) > most_subjects:
            del self._said[next(iter(self._said))]
        if last is None or last[0] != text or now - last[1] > quiet_s:
            self._log.warning("%s", text)

    def over(self, subject: str, text: str) -> None:
        """Log that the condition is over, if it was ever named."""
        if self._said.pop(subject, None) is not None:
            self._log.info("%s", text)
