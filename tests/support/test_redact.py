"""No secret leaves, in whatever form it stands; everything else does."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dataplane.support.redact import redact, taken_out

forms = [
    "--etcd-password={}",
    "--etcd-password {}",
    "dataplane run --etcd-username root --etcd-password {} --iface eth0",
    "FLANNELD_ETCD_PASSWORD={}",
    '{{"password": "{}", "other": 1}}',
    "{{'passwd': '{}'}}",
    "token: {}",
    "  client-key-data: {}",
    "Authorization: Bearer {}",
    "authorization=Basic {}",
    "https://root:{}@etcd.example:2379/v3",
    "http://{}@192.0.2.1:2379",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN EC PRIVATE KEY-----\n{}",
    "aws_secret_access_key = {}",
    "X-API-Key: {}",
    '{{"Type": "wireguard", "PSK": "{}"}}',
]
secrets = st.text(string.ascii_letters + string.digits + "+/=._~!$%^*()-", min_size=8, max_size=40).filter(
    lambda text: text[0].isalnum()
)


@pytest.mark.parametrize("form", forms)
@given(secret=secrets, before=st.sampled_from(["", "line\n", "a=b "]), after=st.sampled_from(["", "\nline", " rest"]))
def test_no_secret_is_left(form: str, secret: str, before: str, after: str) -> None:
    assume(secret not in form + taken_out)
    if form.startswith("http://{}"):
        assume("/" not in secret)  # that would be a path
    text = f"{before}{form.format(secret)}{after}"
    said = redact(text)
    assert secret not in said, said
    assert taken_out in said
    assert redact(said) == said


@pytest.mark.parametrize(
    "text",
    [
        "lease 10.244.1.0/24 at 192.0.2.1 VTEP 02:00:00:00:00:01",
        "--etcd-endpoints=https://192.0.2.250:2379 --etcd-keyfile=/etc/key.pem",
        "FLANNELD_IFACE=eth0\nNODE_NAME=node1\n",
        "udp dport 8472 counter packets 3 bytes 420 drop",
        "mail to root@node1, see http://192.0.2.1/@index",
        "default via 192.0.2.254 dev eth0 proto static",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert redact(text) == text


@given(
    st.text(
        string.ascii_lowercase.replace("p", "").replace("t", "").replace("s", "").replace("c", "") + " 0123456789.:/-\n"
    )
)
def test_whatever_names_no_secret_stays(text: str) -> None:
    assert redact(text) == text
