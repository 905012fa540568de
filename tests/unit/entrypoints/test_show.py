"""What a person reads of agents: in words, and nothing of it where no VM could have one."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from hypervigil.entrypoints.cli import show
from hypervigil.model.guest import Hearing

STATUS: dict[str, Any] = {
    "ready": True,
    "mode": "monitor",
    "since": 0.0,
    "vms": 3,
    "level2": 0,
    "cases_open": 0,
    "limits_in_force": 0,
    "withheld": 0,
    "blind": [],
    "sweeps": 1,
    "lost": 0,
    "looks_waiting": 0,
    "looks_postponed": 0,
    "pairs_dropped": 0,
    "journal": {"records": 1, "signed_through": 1},
    "notices": 0,
    "noticing": 0,
    "half_blind": 0,
    "agents": dict.fromkeys(map(str, Hearing), 0) | {"no-port": 3},
}


def printed(do, body: dict[str, Any]) -> str:
    out = StringIO()
    do(Console(file=out, width=200), body)
    return out.getvalue()


@pytest.mark.parametrize(
    ("hearing", "says"),
    [
        (Hearing.NO_PORT, "–"),
        (Hearing.CLOSED, "closed"),
        (Hearing.UNKNOWN, "none heard"),
        (Hearing.HEARD, "heard, level 2, 412 bytes/s"),
        (Hearing.CONTRADICTED, "contradicted"),
        (Hearing.SILENT, "silent since"),
    ],
)
def test_the_list_of_vms_says_what_is_heard(hearing: Hearing, says: str) -> None:
    vm: dict[str, Any] = {
        "name": "web-1",
        "mode": "monitor",
        "exempt_until": None,
        "level": "level1",
        "role": None,
        "case": None,
        "limits": 0,
        "agent": {
            "hearing": str(hearing),
            "level": 2,
            "reported_at": 1000.0,
            "bytes_per_s": 412.3,
            "notice": None,
            "blind": [],
        },
        "nics": [],
    }
    assert says in printed(show.vms, {"vms": [vm]})
    assert "cannot see" not in printed(show.vms, {"vms": [vm]})
    blind = {**vm, "agent": {**vm["agent"], "blind": ["headers", "sockets"]}}
    assert "web-1: its agent says that it cannot see: headers, sockets" in printed(show.vms, {"vms": [blind]})
    notice = {"at": 1000.0, "text": "web-1's agent tells of a special request: promiscuous eth0"}
    noticed = {**vm, "agent": {**vm["agent"], "notices": 3, "notice": notice}}
    assert "web-1: 3 notices" in printed(show.vms, {"vms": [noticed]})
    assert "promiscuous eth0" in printed(show.vms, {"vms": [noticed]})


def test_the_status_tells_of_agents_where_there_may_be_some() -> None:
    assert "agent" not in printed(show.status, STATUS)
    some = {**STATUS, "agents": STATUS["agents"] | {"no-port": 1, "heard": 1, "silent": 1}}
    assert "noticed" not in printed(show.status, some)
    assert "noticed something 5 times in 2 VMs" in printed(show.status, {**some, "notices": 5, "noticing": 2})
    assert "blind" not in printed(show.status, some)
    assert "4 agents say that they cannot see all of their guests" in printed(show.status, {**some, "half_blind": 4})
    assert "2 VMs have a port for an agent: 1 heard, 0 contradicted, 1 silent" in printed(show.status, some)


def test_a_grant_is_told_from_a_limit() -> None:
    limit = {"kind": "cpu", "value": 0.75, "raised_from": None}
    assert show.value(limit) == "0.75 of a core per vCPU"
    assert show.value(limit | {"raised_from": 0.5}) == "grant of 0.75 of a core per vCPU, from 0.5"
