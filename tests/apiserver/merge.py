"""How Kubernetes merges a patch into an object: JSON merge, and strategic merge by what the types say of their lists.

What must stay true: a list that the types merge by a key keeps the entries that the patch does not name, in their order;
every other list is replaced whole.
Source: RFC 7386; k8s.io/api/core/v1 types.go (patchMergeKey of Node), Kubernetes' strategic-merge-patch documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of a Node: the lists that are merged, by the key that names an entry.
merge_keys: Mapping[tuple[str, ...], str] = {
    ("status", "conditions"): "type",
    ("status", "addresses"): "type",
    ("metadata", "ownerReferences"): "uid",
}


class BadPatch(Exception):
    """The patch is not of the form that its type asks for."""


def json_merge(value: Any, patch: Any) -> Any:
    """Return `value` with an RFC 7386 patch applied."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            merged.pop(name, None)
        else:
            merged[name] = json_merge(merged.get(name), part)
    return merged


def strategic_merge(value: Any, patch: Any, path: tuple[str, ...] = ()) -> Any:
    """Return `value`, a Node or the part of one at `path`, with a strategic merge patch applied.

    Raises:
        BadPatch: an entry of a merged list does not say which it is.
    """
    if isinstance(patch, list) and path in merge_keys:
        return _merge_list(value or [], patch, path)
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if name.startswith("$"):
            continue  # of the directives, those of a list's entries are known here
        if part is None:
            merged.pop(name, None)
        else:
            merged[name] = strategic_merge(merged.get(name), part, (*path, name))
    return merged


def _merge_list(entries: list[Any], patch: list[Any], path: tuple[str, ...]) -> list[Any]:
    key = merge_keys[path]
    merged = list(entries)
    for part in patch:
        if not isinstance(part, dict) or key not in part:
            raise BadPatch(f"{'.'.join(path)}: an entry of the patch does not contain the merge key {key!r}")
        at = next((index for index, entry in enumerate(merged) if entry.get(key) == part[key]), None)
        if part.get("$patch") == "delete":
            if at is not None:
                del merged[at]
        elif at is None:
            merged.append(part)
        else:
            merged[at] = strategic_merge(merged[at], part)
    return merged
