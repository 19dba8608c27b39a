"""Who may do what: tokens to users, and Kubernetes' RBAC for them.

What must stay true: what no rule allows is refused, with the words of a real API server; a subresource ("nodes/status")
is a resource of its own.
Source: Kubernetes' RBAC authorizer; k8s.io/api/rbac/v1.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

admin = "system:admin"


@dataclass(frozen=True, slots=True)
class Rule:
    """A PolicyRule; empty `names`: every object."""

    groups: Sequence[str]
    resources: Sequence[str]
    verbs: Sequence[str]
    names: Sequence[str] = ()

    def allows(self, verb: str, group: str, resource: str, name: str) -> bool:
        """Say whether it does."""
        return (
            _has(self.verbs, verb)
            and _has(self.groups, group)
            and _has(self.resources, resource)
            and (not self.names or name in self.names)
        )


class Access:
    """Tokens and rules. The administrator may do everything."""

    def __init__(self, tokens: Mapping[str, str], rules: Mapping[str, Sequence[Rule]]) -> None:
        self.tokens = dict(tokens)
        self._rules = rules
        self._forbidden_until = 0.0
        self._because = ""

    def forbid(self, seconds: float, because: str) -> None:
        """Refuse all but the administrator for so long, as a server does whose RBAC caches are not filled yet.

        Args:
            because: what RBAC finds missing (`clusterrole.rbac.authorization.k8s.io "flannel" not found`); "" for nothing.
        """
        self._forbidden_until = time.monotonic() + seconds
        self._because = because

    def user(self, authorization: str) -> str | None:
        """Return whose Authorization header this is; None: nobody's."""
        scheme, _, token = authorization.partition(" ")
        return self.tokens.get(token) if scheme.lower() == "bearer" else None

    def refusal(self, user: str, verb: str, resource: str, name: str) -> str:
        """Return why the user may not, of the core group; "" if he may."""
        if user == admin:
            return ""
        forbidden = time.monotonic() < self._forbidden_until
        if not forbidden and any(rule.allows(verb, "", resource, name) for rule in self._rules.get(user, ())):
            return ""
        what = f'{resource.partition("/")[0]} "{name}"' if name else resource
        text = f'{what} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "" at the cluster scope'
        return f"{text}: RBAC: {self._because}" if forbidden and self._because else text


def read_rules(documents: Iterable[Mapping[str, Any]]) -> dict[str, list[Rule]]:
    """Return the rules of ClusterRoles by the service account that ClusterRoleBindings give them to.

    Args:
        documents: of a manifest, other kinds too.
    """
    documents = list(documents)
    roles = {
        document["metadata"]["name"]: [
            Rule(
                rule.get("apiGroups", ()),
                rule.get("resources", ()),
                rule.get("verbs", ()),
                rule.get("resourceNames", ()),
            )
            for rule in document["rules"]
        ]
        for document in documents
        if document["kind"] == "ClusterRole"
    }
    rules: dict[str, list[Rule]] = {}
    for document in documents:
        if document["kind"] == "ClusterRoleBinding":
            for subject in document["subjects"]:
                user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
                rules.setdefault(user, []).extend(roles.get(document["roleRef"]["name"], ()))
    return rules


def _has(words: Sequence[str], word: str) -> bool:
    return word in words or "*" in words
