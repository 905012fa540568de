"""The policy file is read strictly; every mistake is one sentence with the mend, and changes nothing."""

import os
import re
import time
from dataclasses import fields
from math import inf
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.entrypoints.cli import main
from hypervigil.host import policyfile
from hypervigil.host.policyfile import KEYS, PolicyError, PolicyStore, describe, diff, load, parse
from hypervigil.model.network import (
    AddressPair,
    Between,
    Budget,
    EndKind,
    Floor,
    Forwarding,
    Group,
    Rule,
    RuleEnd,
    TenantPolicy,
)
from hypervigil.model.policy import Bounds, Mode, NetworkPolicy, Policy, VmPolicy
from hypervigil.model.services import ANYTHING, Services
from hypervigil.model.services import parse as services
from hypervigil.model.traffic import ForgedKind

DOCS = Path(__file__).parents[3] / "docs" / "policy.md"
FULL = """
mode = "enforce"
ladder = ["limit", "limit", "quarantine", "pause"]

[bounds]
factor = 3
floor_pps = 10.5
cap_pps = 900
hold_s = 30
hold_max_s = 600
provisional_s = 20
calm_s = 15

[[network]]
name = "net1"
bridge = "br-net1"
cidr = "10.60.0.0/24"
trusted_dhcp_macs = ["52-54-00-AA-00-01"]
uplinks = ["eth1", "bond0.7"]

[[network]]
name = "net2"
bridge = "virbr1"

[[vm]]
name = "web 1"
tenant = "blue"
mode = "monitor"
addresses = ["10.60.0.11", "2001:DB8:0::1"]
quarantine_allows = ["10.60.0.1"]

[[vm]]
name = "plain"
"""


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse(text, "p.toml")
    message = str(caught.value)
    assert message.isprintable(), "one line"
    assert message.startswith("p.toml")
    assert len(message) < 400
    return message


def test_every_key_reaches_the_model():
    assert parse(FULL) == Policy(
        mode=Mode.ENFORCE,
        networks=(
            NetworkPolicy("net1", "br-net1", "10.60.0.0/24", ("52:54:00:aa:00:01",), ("eth1", "bond0.7")),
            NetworkPolicy("net2", "virbr1"),
        ),
        vms=(
            VmPolicy("web 1", "blue", Mode.MONITOR, ("10.60.0.11", "2001:db8::1"), ("10.60.0.1",)),
            VmPolicy("plain"),
        ),
        bounds=Bounds(3.0, 10.5, 900.0, 30.0, 600.0, 20.0, 15.0),
        ladder=("limit", "limit", "quarantine", "pause"),
    )


LAYERS = """
[[network]]
name = "tenants"
bridge = "br-t"
cidr = "10.60.0.0/24"
members = ["tenant:blue", "group:web", "vm:db-1"]
between = "isolated"
gateways = ["10.60.0.1", "fe80::1"]
reaches = ["far"]
outside = true

[[network]]
name = "far"
forwarding = "routed"
cidr = "2001:db8::/64"

[[vm]]
name = "db-1"
tenant = "blue"
address_pairs = [{ address = "10.60.0.100", mac = "00-00-5E-00-01-01" }, { address = "10.60.0.101" }]
unchecked = ["ipv4", "router_advertisement"]
budget = { packets_per_s = 5000, table_entries = 100, broadcasts_per_s = "unbounded" }

[[group]]
name = "web"
vms = "web-*"

[[path]]
name = "customers"
from = "outside"
to = ["group:web", "vm:a:b"]
services = ["tcp/80", "tcp/443"]
by = "blue"

[[path]]
name = "lookup"
from = ["203.0.113.7", "198.51.100.0/24", "network:tenants"]
to = "tenant:blue"
services = "any"

[[deny]]
name = "no mail"
from = "any"
to = "outside"
services = "tcp/25"

[[tenant]]
name = "blue"
between = "isolated"
outside = false
budget = { packets_per_s = 100, broadcasts_per_s = 50 }

[floor]
between = "isolated"
outside = false
budget = { octets_per_s = 1e9, new_flows_per_s = 2000 }
"""


def test_the_three_layers_reach_the_model():
    policy = parse(LAYERS)
    group, blue = RuleEnd(EndKind.GROUP, "web"), RuleEnd(EndKind.TENANT, "blue")
    assert policy.networks == (
        NetworkPolicy(
            "tenants",
            "br-t",
            "10.60.0.0/24",
            members=(blue, group, RuleEnd(EndKind.VM, "db-1")),
            between=Between.ISOLATED,
            gateways=("10.60.0.1", "fe80::1"),
            reaches=("far",),
            outside=True,
        ),
        NetworkPolicy("far", None, "2001:db8::/64", forwarding=Forwarding.ROUTED),
    )
    assert policy.vms == (
        VmPolicy(
            "db-1",
            "blue",
            address_pairs=(AddressPair("10.60.0.100", "00:00:5e:00:01:01"), AddressPair("10.60.0.101")),
            unchecked=(ForgedKind.IPV4, ForgedKind.ROUTER_ADVERTISEMENT),
            budget=Budget(packets_per_s=5000.0, table_entries=100, broadcasts_per_s=inf),
        ),
    )
    assert policy.groups == (Group("web", ("web-*",)),)
    web = Services.of([*services("tcp/80").ranges, *services("tcp/443").ranges])
    ranges = (RuleEnd(EndKind.RANGE, "203.0.113.7/32"), RuleEnd(EndKind.RANGE, "198.51.100.0/24"))
    assert policy.paths == (
        Rule("customers", (RuleEnd(EndKind.OUTSIDE),), (group, RuleEnd(EndKind.VM, "a:b")), web, "blue"),
        Rule("lookup", (*ranges, RuleEnd(EndKind.NETWORK, "tenants")), (blue,), ANYTHING),
    )
    outside = (RuleEnd(EndKind.OUTSIDE),)
    assert policy.denials == (Rule("no mail", (RuleEnd(EndKind.ANY),), outside, services("tcp/25")),)
    assert policy.floor == Floor(Between.ISOLATED, False, Budget(octets_per_s=1e9, new_flows_per_s=2000.0))
    blue_takes = Budget(packets_per_s=100.0, broadcasts_per_s=50.0)
    assert policy.tenants == (TenantPolicy("blue", Between.ISOLATED, False, blue_takes),)
    assert policy.ruled


def test_networks_may_have_the_same_link_local_gateway():
    two = [f'[[network]]\nname = "{n}"\nbridge = "{n}"\ncidr = "fd0{n}::/64"\ngateways = ["fe80::1"]\n' for n in (1, 2)]
    assert [network.gateways for network in parse("".join(two)).networks] == [("fe80::1",)] * 2


def test_only_what_speaks_of_who_reaches_whom_is_a_network_policy():
    assert not parse(FULL).ruled
    assert not parse('[[vm]]\nname = "a"\nbudget = { packets_per_s = 1 }\nunchecked = ["mac"]').ruled
    assert not parse("[floor]\nbudget = { packets_per_s = 1 }").ruled
    assert parse(NET + '\nbetween = "open"').ruled
    assert parse("[floor]\noutside = false").ruled
    assert not parse(TENANT + "budget = { packets_per_s = 1 }").ruled
    assert parse(TENANT + "outside = false").ruled
    assert parse(TENANT + 'between = "isolated"').ruled


def test_an_empty_file_is_the_default():
    assert parse("") == Policy()
    assert parse("# nothing yet\n") == Policy()


def test_every_field_of_the_model_has_a_key():
    assert set(KEYS["bounds"]) == {field.name for field in fields(Bounds)}
    assert set(KEYS["network"]) == {field.name for field in fields(NetworkPolicy)}
    assert set(KEYS["vm"]) == {field.name for field in fields(VmPolicy)}
    assert set(KEYS["group"]) == {field.name for field in fields(Group)}
    assert set(KEYS["floor"]) == {field.name for field in fields(Floor)}
    assert set(KEYS["tenant"]) == {field.name for field in fields(TenantPolicy)}
    renamed = {"from": "sources", "to": "destinations"}
    for table in ("path", "deny"):
        assert {renamed.get(key, key) for key in KEYS[table]} == {field.name for field in fields(Rule)}
    plural = {"network": "networks", "vm": "vms", "group": "groups", "path": "paths", "deny": "denials"}
    plural["tenant"] = "tenants"
    assert {plural.get(key, key) for key in KEYS[""]} == {field.name for field in fields(Policy)}


NET = '[[network]]\nname = "n"\nbridge = "b"'
PATH = '[[path]]\nname = "p"\nfrom = "outside"\nto = "outside"\nservices = "tcp/80"\n'
VM = '[[vm]]\nname = "a"\n'
TENANT = '[[tenant]]\nname = "default"\n'
MISTAKES = {
    # what is written: what the sentence must say
    'mode = "enforce': "line 1",
    "mode = enforce": "line 1",
    'ok = 1\nmode = "enforce"': "line 1: unknown key 'ok': known are mode, ladder",
    'mode = "monitor"\nmode = "enforce"': "line 2",
    'moed = "enforce"': "line 1: unknown key 'moed': did you mean 'mode'?",
    'bridge = "br0"': "it belongs into [network]",
    'mode = "on"': 'line 1: mode must be "monitor" or "enforce", not "on"',
    "mode = true": "not true",
    "mode = []": "not a list",
    "mode = 2026-01-01": "not a date or time",
    '# only\nx = """\nabc': "at its end",
    "ladder = []": "ladder must hold 1 to",
    '# 1\nladder = ["pause", "limit"]': "line 2: ladder must not step down",
    'ladder = ["kill"]': 'limit, quarantine, isolate, pause, not "kill"',
    'ladder = "limit"': "a list in [ ]",
    "[[bounds]]\nfactor = 2": "line 1: bounds must be a table: write [bounds]",
    "bounds = 3": "line 1: bounds must be a table",
    "[bounds]\nfactr = 2": "line 2: unknown key 'factr' in bounds: did you mean 'factor'?",
    "[bounds]\nfloor_pps = 2\nfactor = 0.5": "line 3: bounds: factor must be at least 1",
    "[bounds]\nfactor = nan": "line 2: bounds: factor must be a number above 0, not nan",
    "[bounds]\ncap_pps = inf": "not inf",
    "[bounds]\nfactor = 1" + "0" * 310: (
        "line 2: bounds: factor is too large (a number of more than 30 digits): write a smaller number"
    ),
    "[bounds]\nfactor = -1" + "0" * 310: "above 0, not a number of more than 30 digits",
    "[bounds]\nfactor = 0x" + "f" * 5000: "line 2: bounds: factor is too large",
    "# 7\n[bounds]\nfactor = 1" + "0" * 5000: (
        "p.toml, line 3: factor has a number of more than 4,300 digits; write a smaller one"
    ),
    "mode = 0x" + "f" * 5000: 'line 1: mode must be "monitor" or "enforce", not a number of more than 30 digits',
    "ladder = [\n1" + "0" * 5000 + "\n]": "line 2: there is a number of more than 4,300 digits",
    "[bounds]\ncalm_s = 0": "calm_s must be a number above 0",
    "[bounds]\ncalm_s = true": "not true",
    '[bounds]\ncalm_s = "30"': 'not "30"',
    "[bounds]\nfloor_pps = 100\ncap_pps = 50": "line 1: bounds: floor_pps must be above 0 and at most cap_pps",
    "[bounds]\nhold_s = 7200": "line 2: bounds: hold_s (7200) is above hold_max_s (3600): raise hold_max_s",
    "[bounds]\nhold_max_s = 1": "line 2: bounds: hold_s",
    '[network]\nname = "n"': "line 1: network must be written as [[network]], with two brackets",
    "network = [3]": "line 1: network number 1 must be a table",
    '[[vm]]\nname = "a"\n[[network]]\nbridge = "br0"': "line 3: network number 1 has no name",
    '[[network]]\nname = "n"': "line 1: network 'n' has no bridge: add bridge",
    '[[network]]\nname = "n"\nbridge = "br0; flush ruleset"': "line 3: network 'n': bridge must be an interface's name",
    '[[network]]\nname = "n"\nbridge = "a-name-that-is-too-long"': "1 to 15",
    NET + '\ncidr = "10.60.0.1/24"': 'names a machine, not a network: write "10.60.0.0/24"',
    NET + '\ncidr = "10.60.0.0"': 'a network like "10.60.0.0/24"',
    NET + '\ncidr = "10.60.0.0/33"': "a network like",
    NET + '\ntrusted_dhcp_macs = ["52:54"]': "must be a MAC address",
    NET
    + f"\ntrusted_dhcp_macs = {[f'52:54:00:00:00:0{n}' for n in range(5)]}": "trusted_dhcp_macs must hold at most 4",
    NET + "\nfree_until_leased = true": "line 4: network n: free_until_leased needs trusted_dhcp_macs",
    NET + "\nuplinks = [1]": "uplinks must be an interface's name",
    NET + '\n[[network]]\nname = "n"\nbridge = "c"': "line 5: network 'n' is there twice",
    NET + '\n[[network]]\nname = "m"\nbridge = "b"': "line 6: bridge b is claimed by network 'n' and 'm'",
    '[[vm]]\nname = ""': "must be text in quotes, printable and not empty",
    '[[vm]]\nname = "a\\u001b[2J"': "printable",
    '[[vm]]\nname = "' + "a" * 256 + '"': "name must have at most 255 characters, not 256: write a shorter name",
    "[[vm]]\nname = 7": "must be text",
    '[[vm]]\ntenant = "t"': "vm number 1 has no name",
    VM + '[[vm]]\nname = "a"': "line 4: vm 'a' is there twice",
    VM + 'adresses = ["10.0.0.1"]': "line 3: unknown key 'adresses' in vm 'a': did you mean 'addresses'?",
    VM + 'addresses = "10.0.0.1"': "a list in [ ]",
    VM + 'addresses = ["10.0.0.256"]': "line 3: vm 'a': addresses must be an IPv4 or IPv6 address, not \"10.0.0.256\"",
    VM + 'addresses = ["10.0.0.0/24"]': "without a prefix length",
    VM + "addresses = [167772161]": "not 167772161",
    VM + 'addresses = ["224.0.0.1"]': "that one machine can have",
    VM + 'addresses = ["0.0.0.0"]': "that one machine can have",
    VM + 'addresses = ["fe80::1%eth0"]': "that one machine can have",
    VM + 'addresses = ["10.0.0.1", "10.0.0.1"]': "line 3: vm 'a' names address 10.0.0.1 twice",
    VM + 'addresses = ["::1:2"]\n[[vm]]\nname = "b"\naddresses = ["0::1:2"]': (
        "line 6: address ::1:2 is claimed by vm 'a' and 'b'"
    ),
    VM + 'mode = "enforced"': "line 3: vm 'a': mode must be",
    'x = "\\u001b[31m"': "unknown key 'x'",
    '"\\u001b[31mred" = 1': "unknown key '?[31mred'",
    "x = " + "[" * 100_000: "nested far too deep",
    "x = {" + "a" * 5000 + " = 1}": "unknown key 'x'",
    "a" * 5000 + " = 1": "unknown key",
    NET + '\nforwarding = "switched"': 'forwarding must be "bridged" or "routed", not "switched"',
    '[[network]]\nname = "n"\nforwarding = "routed"': "network 'n' has no cidr: add cidr = …",
    NET + "\noutside = 1": "line 4: network 'n': outside must be true or false, not 1",
    NET + '\nbetween = "closed"': 'between must be "open" or "isolated"',
    NET + '\nmembers = "outside"': "line 4: network 'n': members are VMs, groups and tenants, not 'outside'",
    NET + '\nmembers = "group:web"': "line 4: network 'n': members: there is no group 'web': known are none yet",
    NET + '\nreaches = ["m"]': "line 4: network 'n': reaches: there is no network 'm': known are n",
    NET + '\ncidr = "10.0.0.0/24"\ngateways = ["10.1.0.1"]': "gateway 10.1.0.1 is not in 10.0.0.0/24: correct one",
    NET + '\ngateways = ["10.0.0.1"]\n' + VM + 'addresses = ["10.0.0.1"]': "is the address of vm 'a'",
    NET + '\ngateways = ["10.0.0.1"]\n[[network]]\nname = "m"\nbridge = "c"\ngateways = ["10.0.0.1"]': (
        "line 8: gateway 10.0.0.1 is claimed by network 'n' and 'm'"
    ),
    VM + 'unchecked = ["unreadable"]': "unchecked must hold only mac, ipv4, ipv6, arp, nd, dhcp_server",
    VM + "budget = { packets = 1 }": "line 3: vm 'a': budget has the unknown key 'packets': known are packets_per_s",
    VM + "budget = { packets_per_s = 0 }": "budget has a packets_per_s that must be a number above 0, not 0",
    VM + "budget = { table_entries = 1.5 }": "table_entries that must be a whole number above 0, not 1.5",
    VM + "budget = { table_entries = 0x" + "f" * 5000 + " }": (
        "line 3: vm 'a': budget has a table_entries that is too large (a number of more than 30 digits): write a number"
    ),
    VM + "budget = { table_entries = 2147483648 }": "is too large (2147483648): write a number below 2,147,483,648",
    VM + "budget = { packets_per_s = 1" + "0" * 5000 + " }": "line 3: budget has a number of more than 4,300 digits",
    VM + 'budget = { broadcasts_per_s = "none" }': 'a number above 0, not "none"; "unbounded" is no bound',
    VM + "budget = 5": "budget must be a table in { } with packets_per_s",
    VM + 'address_pairs = [{ mac = "00:00:5e:00:01:01" }]': "with an address each",
    VM + 'address_pairs = [{ address = "x" }]': "has a address that must be an IPv4 or IPv6 address",
    VM + 'addresses = ["10.0.0.9"]\n[[vm]]\nname = "b"\naddress_pairs = [{ address = "10.0.0.9" }]': (
        "line 6: vm 'b': 10.0.0.9 is the own address of vm 'a'"
    ),
    '[[group]]\nname = "g"': "group 'g' has no vms: add vms",
    '[[group]]\nname = "g"\nvms = ["a*b"]': "line 3: group 'g': vms may have a * at its end only, not \"a*b\"",
    '[[group]]\nname = "g"\nvms = []': "vms must hold 1 to",
    '[[group]]\nname = "g"\nvms = "a"\n[[group]]\nname = "g"\nvms = "b"': "group 'g' is there twice",
    PATH: "path 'p' goes past every VM",
    PATH + 'from = "any"': "line 6, column 13: not TOML (Cannot overwrite a value); mend that line",
    PATH.replace('"outside"', '"vm:a"', 1).replace("tcp/80", "http"): (
        "line 5: path 'p': services holds \"http\", which is no service; write for example"
    ),
    PATH.replace('"outside"', '"web"', 1): 'line 3: path \'p\': from must be "any", "outside", "gateway", "vm:NAME"',
    PATH.replace('"outside"', '"group:web"', 1): "line 3: path 'p': from: there is no group 'web': known are none",
    PATH.replace('"outside"', '"10.0.0.1/24"', 1): "names a machine, not a network",
    PATH.replace('"outside"', "7", 1): "not 7",
    PATH.replace('"outside"', "[]", 1): "from must hold 1 to",
    PATH.replace('"outside"', '"tenant:blu"', 1) + '[[vm]]\nname = "a"\ntenant = "blue"': (
        "line 3: path 'p': from: no vm has tenant 'blu': did you mean 'blue'?"
    ),
    PATH.replace('"outside"', '"vm:a"', 1) + 'by = "red"': "line 6: path 'p': by: no vm has tenant 'red'",
    PATH.replace('"outside"', '"10.0.0.0/25"', 1) + NET + '\ncidr = "10.0.0.0/24"': (
        "line 3: path 'p': 10.0.0.0/25 lies in network 'n': ranges are of the outside; write \"network:n\""
    ),
    PATH.replace('"outside"', '"vm:a"')
    + PATH.replace('"outside"', '"vm:a"').replace('"p"', '"q"').replace("80", "x"): ("line 10: path 'q': services"),
    '[[path]]\nname = "p"\nfrom = "any"\nto = "any"': "path 'p' has no services",
    '[[tenant]]\nname = "blu"\n[[vm]]\nname = "a"\ntenant = "blue"': (
        "line 2: tenant 'blu': name: no vm has tenant 'blu': did you mean 'blue'?"
    ),
    "[[tenant]]\noutside = false": "tenant number 1 has no name: add name = …",
    TENANT + TENANT: "tenant 'default' is there twice: remove one or rename it",
    TENANT + 'between = "closed"': 'line 3: tenant \'default\': between must be "open" or "isolated", not "closed"',
    TENANT + 'budget = { broadcasts_per_s = "unbounded" }': (
        "line 3: tenant 'default': budget has a broadcasts_per_s that must be a number above 0, not \"unbounded\""
    ),
    TENANT + "packets_per_s = 5": "line 3: unknown key 'packets_per_s' in tenant 'default': known are name, between",
    "[tenant]\nname = 3": "tenant must be written as [[tenant]]",
    "[floor]\nmode = 3": "line 2: unknown key 'mode' in floor: it belongs into [vm]",
    "[[floor]]\noutside = true": "floor must be a table: write [floor]",
}


@pytest.mark.parametrize(("text", "says"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_mistake_is_one_sentence_with_the_mend(text, says):
    assert says in refusal(text)


@given(
    st.text(max_size=200)
    | st.sampled_from(sorted(MISTAKES)).flatmap(lambda t: st.permutations(t.splitlines())).map("\n".join)
)
def test_any_text_is_a_policy_or_a_policy_error(text):
    try:
        parse(text)
    except PolicyError:
        pass


# --- files -----------------------------------------------------------------------------------------------------------
def test_files_that_cannot_be_read_say_so(tmp_path, monkeypatch):
    def said(path: Path) -> str:
        with pytest.raises(PolicyError) as caught:
            load(path)
        return str(caught.value)

    assert "does not exist" in said(tmp_path / "none.toml")
    assert "is a folder" in said(tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b'# fine\nmode = "\xff"\n')
    assert "line 2: not text in UTF-8" in said(bad)
    bad.write_bytes(b"#" * (policyfile.MAX_BYTES + 1))
    assert "is it the right file" in said(bad)
    assert "cannot be read: Input/output error; name another file" in said(Path("/proc/self/mem"))

    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "you may not read" in said(bad)


def test_a_file_is_read(tmp_path):
    (tmp_path / "p.toml").write_text(FULL, encoding="utf-8")
    assert load(tmp_path / "p.toml") == parse(FULL)


# --- the last good one stays -----------------------------------------------------------------------------------------
def test_the_store_keeps_the_last_good_policy_across_restarts(tmp_path):
    store = PolicyStore(tmp_path)
    assert store.load() is None
    assert store.text() is None
    assert store.apply(FULL) == parse(FULL)
    with pytest.raises(PolicyError):
        store.apply('mode = "enforced"')
    again = PolicyStore(tmp_path)
    assert again.load() == parse(FULL)
    assert again.text() == FULL
    assert [path.name for path in tmp_path.iterdir()] == ["policy.toml"]


def test_a_swap_that_fails_half_way_leaves_the_old_one_and_no_litter(tmp_path, monkeypatch):
    store = PolicyStore(tmp_path)
    store.apply(FULL)

    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        store.apply('mode = "monitor"')
    assert store.text() == FULL
    assert [path.name for path in tmp_path.iterdir()] == ["policy.toml"]


def test_the_kept_policy_is_its_owners_alone(tmp_path):
    PolicyStore(tmp_path).apply(FULL)
    assert (tmp_path / "policy.toml").stat().st_mode & 0o077 == 0


def test_a_kept_policy_that_somebody_spoilt_says_so(tmp_path):
    (tmp_path / "policy.toml").write_text("mode = ", encoding="utf-8")
    with pytest.raises(PolicyError, match=r"policy\.toml"):
        PolicyStore(tmp_path).load()


# --- words -----------------------------------------------------------------------------------------------------------
def test_a_policy_differs_not_from_itself():
    assert diff(parse(FULL), parse(FULL)) == []


def test_every_change_is_said():
    new = FULL
    for before, after in (
        ('mode = "enforce"\nladder', 'mode = "monitor"\nladder'),
        (', "pause"]', "]"),
        ("calm_s = 15", "calm_s = 25"),
        ('cidr = "10.60.0.0/24"\n', ""),
        ('"net2"', '"net3"'),
        ('tenant = "blue"', 'tenant = "red"'),
        ('mode = "monitor"\naddresses', "addresses"),
        ('name = "plain"', 'name = "other"\ntenant = "x"'),
    ):
        assert before in new
        new = new.replace(before, after)
    assert diff(parse(FULL), parse(new)) == [
        "mode: enforce → monitor",
        "ladder: limit, limit, quarantine, pause → limit, limit, quarantine",
        "bounds, calm_s: 15 → 25",
        "network net2: removed",
        "network net1, cidr: 10.60.0.0/24 → none",
        "network net3: added (bridge virbr1)",
        "vm plain: removed",
        "vm web 1, tenant: blue → red",
        "vm web 1, mode: monitor → none",
        "vm other: added (tenant x)",
    ]


def test_a_policy_is_described():
    lines = describe(parse(FULL))
    assert lines[0] == "mode enforce: acts"
    assert "floor_pps 10.5" in lines[2]
    assert "vm plain: as by default" in lines
    assert any(
        line.startswith("vm web 1: tenant blue; mode monitor; addresses 10.60.0.11, 2001:db8::1") for line in lines
    )


def test_a_policy_without_a_mode_is_described_with_what_makes_it_enforce(tmp_path):
    assert "'hypervigil up --enforce' makes it enforce" in describe(parse(""), mode_said=False)[0]
    path = tmp_path / "p.toml"
    for text, told in (("", True), ('mode = "monitor"\n', False), ('mode = "enforce"\n', False)):
        path.write_text(text, encoding="utf-8")
        shown = CliRunner().invoke(main, ["policy", "check", str(path)]).output
        assert ("up --enforce" in shown) is told


# --- documentation ---------------------------------------------------------------------------------------------------
def sections() -> dict[str, str]:
    """The manual's text by table: "" for the top, then bounds, network, vm."""
    parts = re.split(r"^## (.*)$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        table = re.match(r"`\[+(\w+)\]+`", title)
        found[table.group(1) if table else ""] = body
    return found


@pytest.mark.parametrize("table", KEYS)
def test_the_manual_documents_exactly_the_keys_there_are(table):
    documented = re.findall(r"^`(\w+)`\n: ", sections()[table], flags=re.MULTILINE)
    wanted = [key for key in KEYS[table] if table or key not in KEYS]
    assert sorted(documented) == sorted(wanted)


def test_the_manuals_defaults_are_the_models():
    told = {
        key: float(value)
        for key, value in re.findall(r"^`(\w+)`\n: .*?Default (\d+)", sections()["bounds"], re.MULTILINE | re.DOTALL)
    }
    assert told == {field.name: field.default for field in fields(Bounds)}


def test_the_manuals_example_is_sound():
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert parse(example).mode_of("web-1") is Mode.ENFORCE


def test_a_policy_of_five_thousand_vms_is_read_in_a_second():
    text = "".join(
        f'[[vm]]\nname = "vm-{n}"\ntenant = "t{n % 9}"\naddresses = ["10.{n >> 8 & 255}.{n & 255}.1"]\n'
        for n in range(5000)
    )
    began = time.process_time()
    assert len(parse(text).vms) == 5000
    assert time.process_time() - began < 2.0
