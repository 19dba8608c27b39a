"""JSON to values and back, with the C functions under the json package, whose own import doubles the plugin's start.

What must stay true: numbers that JSON has no text for are refused on the way in, so that what goes out is JSON.
"""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii, make_scanner
except ImportError:  # an interpreter built without them
    from json.encoder import encode_basestring_ascii
    from json.scanner import make_scanner  # type: ignore[attr-defined,no-redef,unused-ignore]


def _number(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"the number {text} is too large")
    return value


def _constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value")


class _Options:
    """What the scanner asks for; as the json package sets it, but for the two functions above."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(_number)
    parse_int = int
    parse_constant = staticmethod(_constant)


def parse(text: str) -> object:
    """Return the one JSON value in `text`; raises `ValueError`."""
    text = text.strip(" \t\r\n")
    scan = make_scanner(_Options())  # type: ignore[arg-type,unused-ignore]
    try:
        try:
            value, end = scan(text, 0)
        except SystemError:
            # Up to Python 3.11 it cannot raise its error before this import, whose price only refused text pays.
            import json.decoder  # noqa: F401

            value, end = scan(text, 0)
    except StopIteration:
        raise ValueError("no JSON value" if text else "empty") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if end != len(text):
        raise ValueError(f"something follows the JSON value at character {end}")
    result: object = value
    return result


def text_of(value: object) -> str:
    """Return a value of `parse` as JSON on one line, names sorted."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{text_of(name)}:{text_of(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")
