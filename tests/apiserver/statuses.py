"""Kubernetes' Status: how every refusal is told, as an answer or as the last event of a watch.

Source: k8s.io/apimachinery/pkg/api/errors (NewTimeoutError puts "Timeout: " first), pkg/apis/meta/v1 (Status).
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

Document = dict[str, Any]


class Failure(Exception):
    """A refusal; `code` is HTTP's."""

    def __init__(self, code: int, reason: str, message: str, details: Document | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.document: Document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({} if details is None else {"details": details}),
            "code": code,
        }

    def answer(self) -> web.Response:
        """Return it as an answer."""
        return answer(self.document, self.code)


def answer(document: Document | bytes, status: int = 200) -> web.Response:
    """Return a document, encoded already or not, as an answer."""
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return web.Response(body=body, status=status, content_type="application/json")


def expired(message: str) -> Failure:
    """Return the refusal of a version that is forgotten."""
    return Failure(410, "Expired", message)


def not_found(kind: str, name: str) -> Failure:
    """Return the refusal for an object that is not there."""
    return Failure(404, "NotFound", f'{kind} "{name}" not found', {"name": name, "kind": kind})


def too_large(wanted: int, current: int) -> Failure:
    """Return the refusal of a version that is not there yet."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return Failure(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def invalid(*faults: tuple[str, str]) -> Failure:
    """Return the refusal of list options; each fault is a field and why it is forbidden."""
    texts = [f"{field}: Forbidden: {why}" for field, why in faults]
    causes = [
        {"reason": "FieldValueForbidden", "message": f"Forbidden: {why}", "field": field} for field, why in faults
    ]
    told = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {"group": "meta.k8s.io", "kind": "ListOptions", "causes": causes}
    return Failure(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {told}', details)
