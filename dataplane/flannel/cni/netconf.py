"""The network configuration that a runtime gives us, and the one that we give the delegate.

What must stay true: the delegate's configuration means what flannel's plugin would have given it; the configuration that
came in is not changed.

Source: CNI specification 1.1.0, section 1; flannel-io/cni-plugin flannel.go, flannel_linux.go; flannel.md section 9.
"""

from __future__ import annotations

from dataplane.flannel.cni import failures, jsontext, subnetfile
from dataplane.flannel.cni.failures import Failure

versions = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
default_data_dir = "/var/lib/cni/flannel"


class Conf:
    """The plugin's own configuration.

    Attributes:
        version: of the specification, one of `versions`; `version_given` is False where the text had none (means 0.1.0).
        name: of the network.
        subnet_file, data_dir: paths.
        delegate, ipam: given by the administrator, empty where they were not.
        document: everything that came in.
    """

    def __init__(self, document: dict[str, object]) -> None:
        self.document = document
        version = document.get("cniVersion")
        self.version_given = version is not None and version != ""
        self.version = version if isinstance(version, str) and version else versions[0]
        if self.version not in versions or not isinstance(version, (str, type(None))):
            raise Failure(
                failures.incompatible_version,
                "incompatible CNI versions",
                f"cniVersion is {jsontext.text_of(version)}, allowed are {', '.join(versions)}",
            )
        self.name = _text(document, "name", "")
        if not is_name(self.name):
            raise Failure(
                failures.invalid_config,
                f"invalid network name {jsontext.text_of(self.name)}",
                "allowed are letters, digits, and after the first character also . _ -",
            )
        self.subnet_file = _text(document, "subnetFile", subnetfile.default_path)
        self.data_dir = _text(document, "dataDir", default_data_dir)
        self.delegate = _object(document, "delegate")
        self.ipam = _object(document, "ipam")
        for name in ("name", "ipam"):
            if name in self.delegate:
                raise Failure(failures.invalid_config, f"'delegate' must not have '{name}': it is set by this plugin")
        kind = self.delegate.get("type", "bridge")
        if not isinstance(kind, str) or not kind:
            raise Failure(
                failures.invalid_config, f"the 'type' of 'delegate' is {jsontext.text_of(kind)}, not a plugin's name"
            )
        self.delegate_type = kind

    def since(self, version: str) -> bool:
        """Say whether the configuration is of `version` of the specification, or a later one."""
        return versions.index(self.version) >= versions.index(version)


def is_name(text: str) -> bool:
    """Say whether `text` may be a network's name or a container's id (CNI specification, sections 1 and 2)."""
    return text.isascii() and text[:1].isalnum() and all(each.isalnum() or each in "._-" for each in text)


def read(text: bytes) -> Conf:
    """Return the configuration that came on stdin; raises `Failure`."""
    try:
        document = jsontext.parse(text.decode())
    except ValueError as error:
        raise Failure(failures.not_decodable, f"the network configuration on stdin is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Failure(failures.not_decodable, "the network configuration on stdin is not a JSON object")
    return Conf(document)


def for_delegate(conf: Conf, env: subnetfile.SubnetFile) -> dict[str, object]:
    """Return the delegate's configuration; raises `Failure` where routes of `ipam` are no list of objects."""
    routes = conf.ipam.get("routes", [])
    if not isinstance(routes, list) or not all(isinstance(route, dict) and "dst" in route for route in routes):
        raise Failure(failures.invalid_config, "failed to parse ipam.routes", 'allowed is a list of {"dst": prefix}')
    made: dict[str, object] = {
        "type": "bridge",
        "ipMasq": not env.ip_masq,
        "mtu": env.mtu,
    }
    if conf.delegate_type == "bridge":
        made["isGateway"] = True
    if "args" in conf.document:
        made["args"] = conf.document["args"]
    made.update(conf.delegate)
    made["name"] = conf.name
    if conf.version_given:
        made["cniVersion"] = conf.version
    if conf.document.get("runtimeConfig") is not None:
        made["runtimeConfig"] = conf.document["runtimeConfig"]
    made["ipam"] = {
        "type": "host-local",
        **conf.ipam,
        "ranges": [[{"subnet": subnet}] for subnet in env.subnets],
        "routes": [*routes, *({"dst": network} for network in env.networks)],
    }
    return made


def with_gateways(result: dict[str, object]) -> dict[str, object]:
    """Return a result of ADD whose routes all name their gateway, where one of the family is known.

    A route without one goes through the gateway of the address (CNI specification, section 5, "routes"), and so the
    delegates make it; but the CHECK of bridge 1.1.1 looks for a route that has none, which flannel's routes never are.
    """
    ips, routes = result.get("ips"), result.get("routes")
    if not isinstance(ips, list) or not isinstance(routes, list):
        return result
    gateways: dict[bool, object] = {}
    for ip in ips:
        if isinstance(ip, dict) and ip.get("gateway"):
            gateways.setdefault(":" in str(ip["gateway"]), ip["gateway"])
    filled: list[object] = []
    for route in routes:
        gateway = gateways.get(":" in str(route.get("dst"))) if isinstance(route, dict) else None
        filled.append({**route, "gw": gateway} if gateway and not route.get("gw") else route)
    return {**result, "routes": filled}


def _text(document: dict[str, object], name: str, default: str) -> str:
    value = document.get(name)
    if not isinstance(value, (str, type(None))):
        raise Failure(failures.invalid_config, f"'{name}' is {jsontext.text_of(value)}, not a string")
    return value or default


def _object(document: dict[str, object], name: str) -> dict[str, object]:
    value = document.get(name)
    if not isinstance(value, (dict, type(None))):
        raise Failure(failures.invalid_config, f"'{name}' is {jsontext.text_of(value)}, not an object")
    return value or {}
