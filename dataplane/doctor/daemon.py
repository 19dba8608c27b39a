"""The daemon itself: does it run, is it ready, does subnet.env say what it says, and does the clock make sense?"""

from __future__ import annotations

import time

from dataplane.doctor.finding import Finding, fail, ok, warn
from dataplane.doctor.node import Node
from dataplane.runtime.place import here

_most_problems = 5
_longest_lease_s = 24 * 3600 + 600
_earliest = 1704067200  # 2024: no clock that is set says less
_slack_s = 5.0


def check_daemon(node: Node) -> list[Finding]:
    """Judge what it says."""
    return [*judge_daemon(node), *judge_clock(node, time.time())]


def judge_daemon(node: Node) -> list[Finding]:
    """Judge the status, and subnet.env beside it."""
    if node.document is None:
        found = [_silent(node.asked.silence)]
        if node.conf_problem:
            judge = fail if node.conf is None else warn
            found.append(judge("daemon", f"network configuration: {node.conf_problem}", f"cat {node.asked.net_config}"))
        return found
    document, findings = node.document, []
    problems = document["problems"]
    judge = warn if document["ready"] else fail
    look = f"dataplane status --run-dir {node.asked.run_dir}; journalctl -u dataplane -n 50"
    for number, problem in enumerate(problems[:_most_problems]):
        state = "" if document["ready"] else "the daemon is not ready: "
        findings.append((judge if not number else warn)("daemon", f"{state if not number else ''}{problem}", look))
    if len(problems) > _most_problems:
        findings.append(warn("daemon", f"and {len(problems) - _most_problems} more problems", look))
    if document["ready"]:
        findings += _subnet_file(node)
    netns = here().netns
    if document.get("netns") and netns and document["netns"] != netns:
        text = "the daemon runs in another network namespace: all that is said here of the host is of this one"
        findings.append(warn("daemon", text, f"nsenter --net --target {document['pid']} dataplane doctor"))
    if findings:
        return findings
    contact = document["store"]["last_contact"]
    store = f", store heard {max(0, document['time'] - contact):.0f} s ago" if contact else ""
    return [
        ok(
            "daemon",
            f"ready, pid {document['pid']}, subnets of peers: {len(document['peers'])}{store}; subnet.env agrees",
        )
    ]


def _silent(why: str) -> Finding:
    if why.startswith("no daemon is running"):
        return warn("daemon", why, "systemctl start dataplane")
    if why.startswith("not allowed"):
        return warn("daemon", why, "sudo dataplane doctor")
    return fail("daemon", why, "systemctl restart dataplane")


def _subnet_file(node: Node) -> list[Finding]:
    lease = (node.document or {}).get("lease") or {}
    path = (node.document or {}).get("subnet_file")
    mend = "systemctl restart dataplane"
    if node.env is None:
        return [fail("daemon", f"{path} is missing: the CNI plugin makes no pods", mend)]
    told = (str(node.env.subnet or ""), str(node.env.ipv6_subnet or ""))
    leased = (lease.get("subnet") or "", lease.get("ipv6_subnet") or "")
    if told == leased:
        return []
    said, true = (" ".join(filter(None, pair)) or "no subnet" for pair in (told, leased))
    return [fail("daemon", f"{path} says {said}, but the daemon's lease is {true}", mend)]


def judge_clock(node: Node, now: float) -> list[Finding]:
    """Compare the wall clock with what the status says of times."""
    document = node.document or {}
    lease, mend = document.get("lease") or {}, "timedatectl set-ntp true"
    expires = lease.get("expires")
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < _earliest:
        return [fail("clock", f"the clock says {shown}: it is not set; leases and certificates are judged by it", mend)]
    if document.get("started", 0) > now + _slack_s:
        return [warn("clock", f"the daemon started in the future: the clock ({shown}) was set back", mend)]
    if expires is not None and expires <= now:
        text = f"our lease ended {now - expires:.0f} s ago by this clock ({shown}): it was not renewed, or the clock is wrong"
        return [fail("clock", text, mend)]
    if expires is not None and expires > now + _longest_lease_s:
        text = (
            f"our lease lasts {(expires - now) / 3600:.0f} h, but leases are of 24 h: this clock ({shown}) was set back"
        )
        return [warn("clock", text, mend)]
    return [ok("clock", shown)]
