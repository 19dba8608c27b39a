"""Takes secrets out of text: passwords, tokens, keys, credentials in URLs.

Pure. What must stay true: what is taken out is marked, and everything else stays as it was; too much is better than too little.
"""

from __future__ import annotations

import re

taken_out = "[taken out]"
_words = "passw(?:or)?d|passphrase|token|secret|api[-_]?key|credential|authorization|client[-_]key[-_]data|psk"
# From the beginning of a word, and bounded: a log line may be one word of megabytes.
_begins = r"(?<![\w.-])"
_name = rf"[\w.-]{{0,64}}?(?:{_words})[\w.-]{{0,64}}"
_quoted = r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'"
_rules: tuple[tuple[re.Pattern[str], str], ...] = (
    # A block without its end is taken to the end of the text.
    (re.compile(r"-----BEGIN [^-\n]+-----.*?(?:-----END [^-\n]+-----|\Z)", re.DOTALL), taken_out),
    # scheme://user:password@host, also where the password is not escaped as it should be; scheme://token@host
    (
        re.compile(rf"{_begins}([a-z][a-z0-9+.-]{{0,20}}://)(?:[^\s'\"@]*:[^\s'\"]*|[^/\s'\"?#]*)@", re.IGNORECASE),
        rf"\1{taken_out}@",
    ),
    # Authorization: Bearer …, also by itself.
    (re.compile(r"\b(Bearer|Basic)\s+[^\s,\"']{6,}", re.IGNORECASE), rf"\1 {taken_out}"),
    # A signed token, wherever it is (RFC 7519).
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), taken_out),
    # name=value, "name": "value", name: value
    (
        re.compile(
            rf"""{_begins}(["']?{_name}["']?\s*[=:]\s*)(?!\s|\[taken out\])(?:{_quoted}|[^\s,"'}}\]]+)""", re.IGNORECASE
        ),
        rf"\1{taken_out}",
    ),
    # --name value
    (
        re.compile(rf"{_begins}(-{_name}[ \0])(?!-|\[taken out\])(?:{_quoted}|[^\s\0]+)", re.IGNORECASE),
        rf"\1{taken_out}",
    ),
)


def redact(text: str) -> str:
    """Return the text without what may be a secret."""
    for pattern, instead in _rules:
        text = pattern.sub(instead, text)
    return text
