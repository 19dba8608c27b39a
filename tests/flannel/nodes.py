"""Annotations as flannel writes them."""

from __future__ import annotations

from ipaddress import IPv4Network

from dataplane.model import NetConf

only4 = NetConf(network=IPv4Network("10.244.0.0/16"), backend_type="vxlan")
mac = "12:c6:65:89:b4:e3"
vxlan_texts = {
    "kube-subnet-manager": "true",
    "backend-type": "vxlan",
    "backend-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}',
    "public-ip": "192.0.2.1",
}
