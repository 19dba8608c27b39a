"""The parts of Kubernetes' API objects that are read here; everything else in an answer is skipped, undecoded.

A Node's status is some ten kilobytes, and a cluster has ten thousand of them. What must stay true: members that are
missing or null are as if empty, since the API server leaves out what is empty.
Source: k8s.io/api/core/v1 (Node, Pod), k8s.io/apimachinery/pkg/apis/meta/v1 (ObjectMeta, ListMeta, Status, WatchEvent).
"""

from __future__ import annotations

import msgspec


class Metadata(msgspec.Struct, rename="camel"):
    """Of an object; the version is opaque text that changes with each write, the time of creation is RFC 3339.

    The uid is another one for an object that was deleted and made again under its name.
    """

    name: str = ""
    resource_version: str = ""
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    uid: str = ""


class NodeSpec(msgspec.Struct):
    """Pod subnets as Kubernetes assigned them: the list, or in old clusters the one."""

    pod_cidr: str | None = msgspec.field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)


class Node(msgspec.Struct):
    """A Node; its status is decoded where it matters, as `NodeStatus`: of our own."""

    metadata: Metadata
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: msgspec.Raw = msgspec.Raw()


class ListedNode(Node):
    """A Node of a list. Its status is skipped, by a name that is none: a raw part keeps all bytes of its page."""

    status: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="")


class Condition(msgspec.Struct):
    """One of a Node's conditions."""

    type: str = ""
    status: str = ""


class NodeStatus(msgspec.Struct):
    """What is read of a Node's status."""

    conditions: list[Condition] | None = None


class ListMetadata(msgspec.Struct, rename="camel"):
    """Of a list or a page of it."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class NodeList(msgspec.Struct):
    """A page of Nodes."""

    metadata: ListMetadata
    items: list[ListedNode] | None = None


class PodSpec(msgspec.Struct, rename="camel"):
    """Where a pod runs."""

    node_name: str = ""


class Pod(msgspec.Struct):
    """A Pod."""

    spec: PodSpec


class Status(msgspec.Struct):
    """What the API server answers in place of an object."""

    code: int = 0
    message: str = ""


class WatchEvent(msgspec.Struct):
    """One line of a watch: type ADDED, MODIFIED, DELETED, BOOKMARK or ERROR, and what it is about."""

    type: str
    object: msgspec.Raw


class Marked(msgspec.Struct):
    """Any object, of which only the metadata is of interest."""

    metadata: Metadata
