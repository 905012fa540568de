"""``hypervigil network`` answers from a file alone, from a saved inventory, and from the monitor."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from hypervigil.entrypoints.cli import main
from hypervigil.entrypoints.cli import network as commands
from hypervigil.entrypoints.control_client import ControlError
from hypervigil.host import policyfile
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.policy import Mode
from hypervigil.model.vm import Inventory, Nic, Vm
from hypervigil.wire import control

POLICY = """
mode = "enforce"

[[network]]
name = "tenants"
bridge = "br-t"
cidr = "10.60.0.0/24"
gateways = ["10.60.0.1"]
outside = true

[[vm]]
name = "web-1"
tenant = "blue"
addresses = ["10.60.0.11"]

[[vm]]
name = "db-1"
tenant = "red"
mode = "monitor"
addresses = ["10.60.0.12"]

[[path]]
name = "customers"
from = "outside"
to = "vm:web-1"
services = "tcp/443"
"""
UUIDS = {"web-1": "1" * 8, "db-1": "2" * 8, "extra": "3" * 8}
INVENTORY = Inventory(
    tuple(
        Vm(VmId(uuid), name, 1, 1, (Nic(PortId(f"52:54:00:00:00:0{n}"), f"vnet{n}", n, "br-t"),))
        for n, (name, uuid) in enumerate(UUIDS.items(), start=1)
    )
)


class Monitor:
    """What the command line hears when it asks."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.unsaid = "monitor"
        self.applied: list[str] = []

    def ask(self, _path: Path, request: control.Request) -> dict:
        if self.text is None:
            raise ControlError("Hypervigil does not run here")
        if isinstance(request, control.ApplyPolicy):
            self.applied.append(request.text)
            return {"sentences": ["done"]}
        assert isinstance(request, control.ShowNetwork)
        policy = policyfile.parse(self.text, unsaid=Mode(self.unsaid))
        body = {
            "policy": msgspec.to_builtins(policy),
            "inventory": msgspec.to_builtins(INVENTORY),
            "mode_unsaid": self.unsaid,
        }
        return msgspec.msgpack.decode(msgspec.msgpack.encode(body))


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor:
    there = Monitor(POLICY)
    monkeypatch.setattr(commands, "ask", there.ask)
    monkeypatch.setattr("hypervigil.entrypoints.cli.common.ask", there.ask)
    return there


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "p.toml").write_text(POLICY, encoding="utf-8")
    return str(tmp_path / "p.toml")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["network", *words])


def answer(*words: str) -> dict:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def complaint(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    return result.output


def test_explain_asks_the_monitor(monitor: Monitor) -> None:
    body = answer("explain", "web-1", "db-1", "tcp/443")
    assert (body["allowed"], body["layer"], body["rule"]) == (False, "firewall", "default")
    assert [step["layer"] for step in body["steps"]] == ["shared network", "firewall"]
    assert body["notes"] == ["in monitor mode nothing is dropped at a port: that is so for db-1"]
    shown = run("explain", "outside", "10.60.0.11", "tcp/443").output
    assert shown.startswith("allowed: outside may begin tcp/443 with 10.60.0.11: path customers allows it (firewall)")
    assert "routing" in shown


def test_whose_word_a_budget_is_is_told(monitor: Monitor) -> None:
    monitor.text = POLICY.replace(
        '"10.60.0.11"]', '"10.60.0.11"]\nbudget = { octets_per_s = 5000, packets_per_s = 900 }'
    )
    monitor.text += """
[[tenant]]
name = "blue"
outside = false
budget = { packets_per_s = 500 }

[floor]
between = "isolated"
budget = { packets_per_s = 1000, new_flows_per_s = 1e6 }
"""
    takes = (
        "web-1 may send at most: 500 packets_per_s (tenant blue); 5,000 octets_per_s (vm web-1); "
        "1,000,000 new_flows_per_s (provider); 200 broadcasts_per_s (default)"
    )
    shown = run("explain", "web-1", "outside", "tcp/443")
    assert takes in shown.output.replace("\n", " ")
    body = answer("show")
    assert [one["vm"] for one in body["budgets"]] == ["db-1", "extra", "web-1"]
    assert body["budgets"][0]["bounds"][0] == {"name": "packets_per_s", "value": 1000.0, "by": "provider"}
    assert body["floors"][1] == {"by": "tenant blue", "between": "open", "outside": False}
    shown = run("show")
    assert "floor of provider: isolates VMs from each other" in shown.output
    assert "floor of tenant blue: lets nobody outside" in shown.output
    assert any(row.split() == ["web-1", "500", "packets_per_s", "tenant", "blue"] for row in shown.output.splitlines())
    assert "default" not in shown.output.partition("may take at most")[2], "what nobody said is everybody's"


def test_ends_are_vms_ids_addresses_the_gateway_and_the_outside(monitor: Monitor) -> None:
    assert answer("explain", UUIDS["web-1"], "gateway", "udp/67")["allowed"]
    assert answer("explain", "web-1", "10.60.0.1", "icmp/echo")["rule"] == "network tenants"
    assert not answer("explain", "10.60.0.12", "198.51.100.7", "tcp/1")["allowed"]
    assert answer("explain", "198.51.100.7", "10.60.0.11", "tcp/443")["allowed"]


def test_a_question_that_cannot_be_answered_is_said_with_the_mend(monitor: Monitor) -> None:
    assert "did you mean 'web-1'?" in complaint("explain", "web1", "db-1", "tcp/1")
    assert "known are db-1, extra, web-1" in complaint("explain", "zzzzz", "db-1", "tcp/1")
    assert "name one, for example" in complaint("explain", "web-1", "db-1", "tcp")
    assert "are the same" in complaint("explain", "web-1", "web-1", "tcp/1")
    assert "are the same" in complaint("explain", "gateway", "gateway", "tcp/1")
    assert "neither 'gateway' nor 'outside' is a VM" in complaint("explain", "gateway", "outside", "tcp/1")
    assert "neither 'outside' nor '192.88.99.1' is a VM" in complaint("explain", "outside", "192.88.99.1", "tcp/1")
    monitor.text = None
    assert "does not run here" in complaint("explain", "web-1", "db-1", "tcp/1")


def test_who_is_on_no_network_has_no_gateway(monitor: Monitor) -> None:
    monitor.text = POLICY.replace("br-t", "br-other")
    for words in (["web-1", "gateway"], ["gateway", "web-1"]):
        said = complaint("explain", *words, "tcp/53")
        assert "'web-1' is on no network of the policy, and so has no gateway: put it on one" in said


def test_a_file_is_enough(monitor: Monitor, file: str, tmp_path: Path) -> None:
    monitor.text = None
    body = answer("explain", "outside", "web-1", "tcp/443", "--file", file)
    assert body["allowed"]
    assert "no host is at hand" in body["notes"][0]
    assert "extra" not in run("show", "--file", file).output
    assert f"{tmp_path / 'none.toml'} does not exist" in complaint("audit", "--file", str(tmp_path / "none.toml"))


def test_a_saved_inventory_stands_for_the_host(monitor: Monitor, file: str, tmp_path: Path) -> None:
    saved = tmp_path / "inventory.json"
    saved.write_text(run("show", "--json").stdout, encoding="utf-8")
    monitor.text = None
    assert "extra" in run("show", "--file", file, "--inventory", str(saved)).output
    saved.write_text("{}", encoding="utf-8")
    assert "holds no inventory" in complaint("audit", "--file", file, "--inventory", str(saved))
    assert "cannot read" in complaint("audit", "--file", file, "--inventory", str(tmp_path / "none"))


def test_audit_lists_who_is_exposed(monitor: Monitor) -> None:
    body = answer("audit")
    assert body["exposures"] == [
        {"kind": "from outside", "from": ["the outside"], "to": ["web-1"], "services": "tcp/443"}
    ]
    assert "from outside" in run("audit").output
    assert answer("audit", "--vm", "db-1")["exposures"] == []
    monitor.text = POLICY.partition("[[path]]")[0].replace('gateways = ["10.60.0.1"]\noutside = true', "")
    assert "left to the bridges" in answer("audit")["notes"][-1]


def test_check_says_what_comes_to_nothing(monitor: Monitor, file: str) -> None:
    assert answer("check", file)["idle"] == []
    Path(file).write_text(POLICY.replace("outside = true", "outside = false"), encoding="utf-8")
    assert answer("check", file)["idle"] == ["path customers lets nothing pass: tenants has no way outside"]
    Path(file).write_text(POLICY + 'by = "grey"', encoding="utf-8")
    assert "no vm has tenant 'grey'" in complaint("check", file)


def test_a_file_without_a_mode_has_the_one_that_the_monitor_was_started_with(monitor: Monitor, file: str) -> None:
    text = POLICY.replace('mode = "enforce"\n', "", 1)
    monitor.text, monitor.unsaid = text, "enforce"
    Path(file).write_text(text, encoding="utf-8")
    assert answer("diff", file)["policy"] == []
    assert answer("explain", "web-1", "db-1", "tcp/443", "--file", file)["notes"] == [
        "in monitor mode nothing is dropped at a port: that is so for db-1"
    ]


def test_diff_and_apply_say_whose_reach_changes(monitor: Monitor, file: str) -> None:
    assert run("diff", file).output == "nobody's reach changes\n"
    Path(file).write_text(POLICY.replace("tcp/443", "tcp/80"), encoding="utf-8")
    shown = run("diff", file).output
    assert "the outside may newly begin tcp/80 with web-1" in shown
    assert "the outside may no more begin tcp/443 with web-1" in shown
    assert "path customers, services: tcp/443 → tcp/80" in shown
    assert run("apply", file, "--dry-run").output == shown
    assert monitor.applied == []
    assert answer("apply", file)["reach"] == [
        {"from": ["the outside"], "to": ["web-1"], "more": "tcp/80", "less": "tcp/443"}
    ]
    assert monitor.applied == [Path(file).read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ([], "holds no inventory"),
        ({"inventory": "text"}, "holds no inventory (Expected `object`, got `str`)"),
        ({"inventory": {"vms": [{"vm": "1"}]}}, "holds no inventory (Object missing required field"),
        ({"addresses": "10.60.0.9"}, "$.vms[0].nics[0].addresses"),
        ({"addresses": ["10.60.0.900"]}, "gives 'web-1' '10.60.0.900', which is no IPv4 or IPv6 address"),
        ({"leased": [""]}, "gives 'web-1' '', which is no IPv4 or IPv6 address"),
        ({"addresses": ["fe80::1%eth0"]}, "gives 'web-1' 'fe80::1%eth0', which is no"),
        ({"port": "vnet0"}, "gives 'web-1' a NIC with the port 'vnet0', which is no MAC address"),
    ],
)
def test_a_saved_inventory_that_is_none_is_refused_in_one_sentence(
    file: str, tmp_path: Path, changed: dict | list, says: str
) -> None:
    body: dict | list = {"inventory": msgspec.to_builtins(INVENTORY)}
    if isinstance(changed, list) or "inventory" in changed:
        body = changed
    else:
        first = dict(body["inventory"]["vms"][0]["nics"][0])  # type: ignore[call-overload]
        body["inventory"]["vms"][0]["nics"] = [first | changed]  # type: ignore[call-overload]
    saved = tmp_path / "inventory.json"
    saved.write_text(json.dumps(body), encoding="utf-8")
    for words in (["audit"], ["explain", "web-1", "db-1", "tcp/1"]):
        said = complaint(*words, "--file", file, "--inventory", str(saved))
        assert says in said
        assert "make one with 'hypervigil network show --json'" in said


def test_a_saved_inventory_nested_without_end_is_refused(file: str, tmp_path: Path) -> None:
    saved = tmp_path / "inventory.json"
    saved.write_text("[" * 100_000, encoding="utf-8")
    assert "holds no inventory" in complaint("audit", "--file", file, "--inventory", str(saved))
