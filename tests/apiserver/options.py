"""What a read or a watch asks for, checked as a real server checks it.

What must stay true: the words of a refusal are the real ones, for clients go by them.
Source: k8s.io/apimachinery/pkg/apis/meta/internalversion/validation (ValidateListOptions); Kubernetes API concepts
(resource versions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tests.apiserver.statuses import Failure, invalid

not_older = "NotOlderThan"
_true = ("true", "1")


@dataclass(frozen=True, slots=True)
class Options:
    """The query of a GET.

    Attributes:
        version: asked for; None where none is, 0 for any.
        exact: that version and no other.
        initial: what there is comes first, as a watch's events; None: not said.
        bookmarks: are wanted.
        seconds: that a watch lasts at most; 0: not said.
        limit: of objects in an answer; 0 for none.
        token: where the next page begins; "" for the first.
    """

    watch: bool
    version: int | None
    exact: bool
    initial: bool | None
    bookmarks: bool
    seconds: int
    limit: int
    token: str

    @property
    def source(self) -> Literal["quorum", "cache"]:
        """Whether etcd has to be asked. A next page is served as the first one was made: from a snapshot in the cache."""
        return "quorum" if self.version is None and not self.token else "cache"


def read(query: Mapping[str, str], *, watch_list: bool) -> Options:
    """Return what is asked for.

    Args:
        watch_list: whether the server has the feature of that name.
    Raises:
        Failure: 422, or 400.
    """
    watch = query.get("watch") in _true
    text, match, initial = (
        query.get(name, "") for name in ("resourceVersion", "resourceVersionMatch", "sendInitialEvents")
    )
    faults = []
    if watch:
        if initial and match != not_older:
            faults.append(
                ("resourceVersionMatch", f"sendInitialEvents requires setting resourceVersionMatch to {not_older}")
            )
        if initial and not watch_list:
            why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            faults.append(("sendInitialEvents", why))
        if match and not initial:
            why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            faults.append(("resourceVersionMatch", why))
    else:
        if match and not text:
            faults.append(
                ("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
            )
        if initial:
            faults.append(("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if faults:
        raise invalid(*faults)
    if text and not (text.isascii() and text.isdigit()):
        raise Failure(400, "BadRequest", f'invalid resource version "{text}"')
    limit, version = int(query.get("limit", 0)), int(text) if text else None
    return Options(
        watch,
        version,
        # With a limit, a version that is not said to be the least one has always meant that one alone.
        match == "Exact" or (not watch and bool(limit and version) and not match),
        initial in _true if initial else None,
        query.get("allowWatchBookmarks") in _true,
        int(query.get("timeoutSeconds", 0)),
        limit,
        query.get("continue", ""),
    )
