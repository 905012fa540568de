"""What a person reads of agents: in words, and nothing of it where no VM could have one."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from hypervigil.entrypoints.cli import network_show, show
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
    do(Console(file=out, width=300, highlight=False, emoji=False), body)
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


NAMES = ["db[old]", "x [/24]", "[bold]", "a\\", "[/]", ":smile:"]
TOLD_AGENT = {"hearing": "heard", "level": 1, "reported_at": 1.0, "bytes_per_s": None, "notice": None, "blind": []}


def everywhere(name: str) -> list[tuple[Any, dict[str, Any]]]:
    """Each view, with this wherever somebody else chooses the words."""
    vm = {"name": name, "mode": "monitor", "exempt_until": None, "level": "level1", "role": "victim", "case": "c1"}
    case = {"case": "c1", "name": name, "opened_at": 1.0, "decided_at": None, "closed_at": None, "role": "attacker"}
    case |= {"attack": None, "cause": f"cause {name}", "counterfactual": f"else {name}"}
    evidence = {"kind": "k", "origin": "host", "value": 1.0, "unit": "u", "baseline": None, "text": f"text {name}"}
    flow = dict.fromkeys(("here_port", "there_port", "packets_out", "packets_in", "octets_out", "octets_in"), 1)
    flow |= {"protocol": 6, "began": "here", "here": "1.1.1.1", "there": "2.2.2.2", "zone": name}  # type: ignore[dict-item]
    process = {"name": name, "pid": 1, "octets_out": 1, "sockets": 1, "raw": 0}
    details = {"at": 1.0, "flows_in_all": 1, "flows": [flow], "transmitters": [process]}
    details |= {"devices": [{"name": name, "requests": 1, "octets": 1}]}
    limit = {"id": "l1", "name": name, "kind": "isolate", "value": None, "classes": [], "direction": "out"}
    limit |= {"from": 1.0, "in_force_at": None, "to": 2.0, "lifted_at": None, "state": "s", "reason": f"for {name}"}
    drop = {"name": name, "direction": "in", "count": 1, "reason": name, "mode": "enforce", "first_at": 1, "last_at": 2}
    unit = {"unit": f"VSEM+VREM {name}", "up": True, "text": name}
    port = {"network": name, "bridge": name, "name": name, "interface": name, "port": "m", "addresses": []}
    member = {"name": name, "port": "m", "tenant": name, "groups": [name], "perimeter": name, "admitted": True}
    network = {"name": name, "bridge": name, "forwarding": "bridged", "between": "open", "outside": True}
    network |= {"reaches": [name], "members": [member]}
    rule = {"kind": "path", "name": name, "from": [name], "to": [name], "services": "any", "by": name}
    told = {"text": name, "allowed": True, "layer": "firewall"}
    way = {"from": name, "to": name, "steps": [told]}
    budgets = [{"vm": name, "bounds": [{"name": "n", "value": 1.0, "by": f"vm {name}"}]}]
    answer = {"from": name, "to": name, "service": "arp", "allowed": True, "layer": "firewall", "text": name}
    ends = {"from": [name], "to": [name]}
    return [
        (show.status, STATUS | {"blind": [name]}),
        (
            show.vms,
            {"vms": [vm | {"limits": 0, "agent": TOLD_AGENT | {"blind": [name]}, "nics": [{"interface": name}]}]},
        ),
        (show.cases, {"cases": [case]}),
        (show.case, case | {"evidence": [evidence], "told": [], "details": details, "limits": [limit]}),
        (show.limits, {"limits": [limit]}),
        (show.drops, {"drops": [drop], "since": 1.0}),
        (show.topology, {"units": [unit], "ports": [port | {"binding": name}], "notes": [name]}),
        (show.sentences, {"sentences": [name]}),
        (
            network_show.shown,
            {"given": True, "networks": [network], "rules": [rule], "floors": [], "budgets": budgets, "notes": [name]},
        ),
        (network_show.explained, answer | {"ways": [way, way], "budgets": budgets, "notes": [name]}),
        (network_show.audited, {"exposures": [ends | {"kind": "k", "services": "any"}], "notes": [name]}),
        (network_show.changed, {"reach": [ends | {"more": "any", "less": "any"}], "policy": [name]}),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is_wherever_it_stands(name: str) -> None:
    for do, body in everywhere(name):
        plainly = printed(do, dict(everywhere("plain"))[do])
        assert printed(do, body).count(name) == plainly.count("plain") > 0, do.__name__
