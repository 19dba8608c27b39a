"""What is said of firewall rules, and how they are mended."""

from __future__ import annotations

from ipaddress import ip_address

from dataplane.doctor.firewall import Rules, judge_firewall
from dataplane.doctor.iptables_rules import read as read_iptables
from tests.doctor.made import node, one, status


def forward(*rules: str, policy: str = "DROP") -> Rules:
    text = "\n".join(("*filter", ":INPUT ACCEPT [0:0]", f":FORWARD {policy} [0:0]", *rules, "COMMIT"))
    return Rules([read_iptables(text, "iptables", 4)])


def test_a_forward_policy_is_judged_by_what_accepts_pods() -> None:
    running_node = node(status())
    found = one(judge_firewall(running_node, forward()), "FAIL", "FORWARD has policy drop")
    assert (
        found.mend == "iptables -I FORWARD -s 10.244.0.0/16 -j ACCEPT && iptables -I FORWARD -d 10.244.0.0/16 -j ACCEPT"
    )
    ours = ("-A FORWARD -s 10.244.0.0/16 -j ACCEPT", "-A FORWARD -d 10.244.0.0/16 -j ACCEPT")
    one(judge_firewall(running_node, forward(*ours)), "OK", "packets of pods are forwarded")
    # Answers alone are let through.
    established = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    one(judge_firewall(running_node, forward(established)), "FAIL", "FORWARD has policy drop")
    # The daemon that is to come puts its own in.
    one(judge_firewall(node(), forward()), "WARN", "--iptables-forward-rules")


def test_a_firewall_that_is_managed_is_mended_by_its_manager() -> None:
    text = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:ufw-user-input - [0:0]\n-A INPUT -j ufw-user-input\nCOMMIT\n"
    rules = Rules([read_iptables(text, "iptables", 4)])
    assert one(judge_firewall(node(), rules), "FAIL", "UDP port 8472").mend == "ufw allow 8472/udp"
    let = text.replace("COMMIT", "-A ufw-user-input -p udp -m udp --dport 8472 -j ACCEPT\nCOMMIT")
    one(judge_firewall(node(), Rules([read_iptables(let, "iptables", 4)])), "OK", "ufw is active")


def test_a_port_that_may_not_be_used_is_no_failure_of_the_firewall() -> None:
    text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport 8472 -j ACCEPT\nCOMMIT\n"
    rules = Rules([read_iptables(text, "iptables", 4)])
    one(judge_firewall(node(ports=(8472, 8285), kind=""), rules), "WARN", "UDP port 8285", "if the backend")


def test_a_peer_that_is_dropped_is_named() -> None:
    text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 192.0.2.2/32 -p udp -m udp --dport 8472 -j DROP\nCOMMIT\n"
    rules = Rules([read_iptables(text, "iptables", 4)])
    peers = frozenset({ip_address("192.0.2.2"), ip_address("192.0.2.3")})
    found = one(judge_firewall(node(status(), peers=peers), rules), "WARN", "drops some of UDP port 8472", "192.0.2.2")
    assert found.mend == "iptables -D INPUT -s 192.0.2.2/32 -p udp -m udp --dport 8472 -j DROP"
    others = frozenset({ip_address("192.0.2.3")})
    one(judge_firewall(node(status(), peers=others), rules), "OK", "is let in")
