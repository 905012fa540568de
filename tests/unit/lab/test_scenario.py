"""Scenario files are read strictly; every mistake is one sentence with the mend."""

from pathlib import Path

import pytest

from hypervigil.host import policyfile
from lab.definition import GuestSpec
from lab.errors import LabError
from lab.guests import Guest
from lab.network import Networks
from lab.scenario import Names, load, parse
from lab.stage import policy

ROOT = Path(__file__).parents[3]
SCENARIOS = sorted((ROOT / "lab" / "scenarios").glob("*.toml"))
FULL = """
name = "syn-flood-inside"
warmup_s = 45
seed = 7
[[network]]
name = "net1"
cidr = "10.60.0.0/24"
[[guest]]
name = "a"
tenant = "red"
network = "net1"
memory_mib = 192
vcpus = 1
work = "idle"
[[guest]]
name = "b"
tenant = "blue"
network = "net1"
work = "web-server"
[[step]]
at_s = 50
on = "a"
run = "timeout 20 hping3 -q --flood -S -p 80 $ip_b"
attack = true
target = "b"
[[expect]]
guest = "a"
verdict = "attacker"
class = "flood"
within_s = 10
released = false
[limits]
duration_s = 90
"""


def test_the_policy_gives_what_the_scenario_says() -> None:
    """Read as the product reads it."""
    scenario = parse(FULL.replace("vcpus = 1", "new_flows_per_s = 60"))
    networks = Networks(scenario.network_specs())
    network = networks["net1"]
    guests = {
        table.name: Guest(GuestSpec(table.name, table.tenant, table.network, scenario.index(table)), network)
        for table in scenario.guest
    }
    a, b = policyfile.parse(policy(scenario, networks, guests)).vms
    assert (a.name, a.budget.new_flows_per_s) == ("hvl-a", 60.0)
    assert b.budget.new_flows_per_s is None


def test_every_key_is_understood() -> None:
    scenario = parse(FULL)
    assert (scenario.name, scenario.warmup_s, scenario.seed, scenario.limits.duration_s) == (
        "syn-flood-inside",
        45,
        7,
        90,
    )
    a, b = scenario.guest
    assert (a.name, a.tenant, a.network, a.memory_mib, a.vcpus, a.work) == ("a", "red", "net1", 192, 1, "idle")
    assert (b.memory_mib, b.vcpus) == (192, 1)
    assert [scenario.index(guest) for guest in scenario.guest] == [0, 1]
    (step,) = scenario.step
    assert (step.at_s, step.on, step.attack, step.target, step.boots) == (50, "a", True, "b", False)
    (expectation,) = scenario.expect
    assert (expectation.attack_class, expectation.within_s, expectation.released) == ("flood", 10, False)


def test_comments_and_order_do_not_change_what_it_says() -> None:
    other = FULL.replace('name = "syn-flood-inside"\nwarmup_s = 45', '# x\nwarmup_s = 45.0\nname = "syn-flood-inside"')
    assert parse(FULL).hash == parse(other).hash
    assert parse(FULL).hash != parse(FULL.replace("seed = 7", "seed = 8")).hash


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 7", "sead = 7", "unknown key 'sead': did you mean 'seed'?"),
        ('tenant = "red"', 'zzz = "red"', "guest 'a': unknown key 'zzz': there is name, network, tenant"),
        ("attack = true", "atack = true", "step 1: unknown key 'atack': did you mean 'attack'?"),
        ("duration_s = 90", "duration = 90", "[limits]: unknown key 'duration': did you mean 'duration_s'?"),
        ("warmup_s = 45", 'warmup_s = "45"', "warmup_s must be a number, and is text in quotes"),
        ("memory_mib = 192", "memory_mib = 19.5", "guest 'a', memory_mib must be a whole number, and is a number"),
        ("attack = true", "attack = 1", "step 1, attack must be true or false, and is a whole number"),
        ("within_s = 10", 'within_s = "soon"', "expect 1, within_s must be a number, and is text in quotes"),
        ("[[network]]", "[network]", "network must be tables [[network]]"),
        ("[limits]", "[[limits]]", "limits must be a table [limits]"),
        ("[limits]\nduration_s = 90", "", "[limits] is missing"),
        ('run = "timeout 20 hping3 -q --flood -S -p 80 $ip_b"', "", "step 1: run is missing"),
        (
            'verdict = "attacker"',
            'verdict = "guilty"',
            "expect 1, verdict 'guilty' is not possible: take attacker, victim",
        ),
        ('class = "flood"', 'class = "deluge"', "expect 1, class 'deluge' is not possible: take flood, scan"),
        ('on = "a"', 'on = "z"', "step 1: on is 'z', which is not there: there is a, b, ext"),
        ('target = "b"', 'target = "z"', "step 1: target is 'z', which is not there"),
        ('target = "b"', 'target = "a"', "where it runs"),
        ("attack = true", "attack = false", "a target without attack = true"),
        ("attack = true", "attack = true\npasses = 1.5", "step 1: passes is 1.5: take a share from 0 to 1"),
        ("released = false", "loses = 2", "loses is 2: take a share from 0 to 1"),
        ("released = false", "keeps = -0.1", "keeps is -0.1: take a share from 0 to 1"),
        ('guest = "a"', 'guest = "z"', "expect is 'z', which is not there"),
        ("at_s = 50", "at_s = 91", "at_s is 91, beyond the end at duration_s = 90"),
        ("at_s = 50", "at_s = -1", "at_s is -1"),
        ("at_s = 50", "at_s = nan", "at_s is nan"),
        ("duration_s = 90", "duration_s = 40", "less than warmup_s = 45"),
        ("[limits]", "[storage]\nrequests_per_s = 1\n[limits]", "requests_per_s in [storage] is 1, take 10 to 100000"),
        ("duration_s = 90", "duration_s = 1e9", "take a number of seconds from 0 to 3600"),
        ("$ip_b", "$ip_z", "'$ip_z' names no guest: there is $ip_a, $mac_a, $ip_b, $mac_b, $ip_ext"),
        ("$ip_b", "$mac_ext", "'$mac_ext' names no guest"),
        ('name = "b"', 'name = "a"', "[[guest]] 'a' is there twice"),
        ('name = "b"', 'name = "ext"', "guest 'ext': a name is a letter"),
        ('name = "b"', 'name = "B/../x"', "a name is a letter"),
        (
            'tenant = "blue"\nnetwork = "net1"',
            'network = "net2"',
            "network is 'net2', which is not there: there is net1",
        ),
        ('cidr = "10.60.0.0/24"', 'cidr = "10.60.0.0/33"', "'net1'"),
        ('cidr = "10.60.0.0/24"', 'cidr = "198.51.100.0/24"', "used twice"),
        ('cidr = "10.60.0.0/24"', 'cidr = "10.60.0.1/24"', "host bits"),
        ('work = "web-server"', 'work = "web-sever"', "guest 'b': work is 'web-sever', write 'web-server'"),
        ('work = "idle"', 'work = "web-client"', "write 'web-client:NAME'"),
        ('work = "idle"', 'work = "web-client:a"', "a client of 'a', which is no web-server: there is b"),
        ("memory_mib = 192", "memory_mib = 1", "memory_mib is 1, take 128 to 16384"),
        ("vcpus = 1", "vcpus = 0", "vcpus is 0"),
        ("vcpus = 1", "new_flows_per_s = 0", "new_flows_per_s is 0, take 1 to 1000000"),
        ("seed = 7", "seed = ", "is not TOML"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_mend(old: str, new: str, said: str) -> None:
    assert old in FULL
    with pytest.raises(LabError) as error:
        parse(FULL.replace(old, new, 1), "bad.toml")
    assert said in str(error.value)
    assert str(error.value).startswith("bad.toml")
    assert "\n" not in str(error.value)
    assert "`" not in str(error.value), "the decoder's own words"


def test_unreadable_files_are_told_apart(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"name = '\xff'")
    for path, said in ((tmp_path / "none.toml", "does not exist"), (tmp_path, "is a folder"), (binary, "UTF-8")):
        with pytest.raises(LabError, match=said):
            load(path)


def test_a_guest_boots_with_its_own_attack_at_the_very_beginning() -> None:
    assert parse(FULL.replace("at_s = 50", "at_s = 0")).step[0].boots
    assert not parse(FULL.replace("at_s = 50", "at_s = 0").replace('on = "a"', 'on = "ext"')).step[0].boots


def test_names_become_addresses_and_a_shells_own_variables_stay() -> None:
    names = Names(
        {"a": "10.0.0.2", "a-b": "10.0.0.3", "ext": "198.51.100.2"}, {"a": "52:54:00:00:00:01"}, "10.0.0.1", 9
    )
    command = (
        "x=$HOME; for i in $(seq $1); do ping $ip_a ${ip_a}x $ip_a-b $mac_a $gateway:$seed $ip_ext $i $seeds; done"
    )
    assert names.put_in(command) == (
        "x=$HOME; for i in $(seq $1); do ping 10.0.0.2 10.0.0.2x 10.0.0.3 52:54:00:00:00:01 10.0.0.1:9 198.51.100.2 $i "
        "$seeds; done"
    )


CROWDED = {"flood-of-all": 7}
"""A server with its client, three who flood it, and a pair that must not feel it; these do one small thing each."""


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_scenarios_are_sound_and_named_like_their_files(path: Path) -> None:
    scenario = load(path)
    assert scenario.name == path.stem
    most = CROWDED.get(path.stem, 3)
    assert len(scenario.guest) <= most, "more do not fit on two cores"
    assert scenario.expect


def test_the_scenarios_hold_what_a_monitor_must_be_able_to_do() -> None:
    scenarios = [load(path) for path in SCENARIOS]
    steps = [step for scenario in scenarios for step in scenario.step]
    assert len(scenarios) >= 14
    assert any(step.boots for step in steps)
    assert any("--rand-source" in step.run for step in steps)
    assert any(step.on == "ext" and step.attack for step in steps)
    assert any(step.target == "ext" for step in steps)
    assert any(len({step.on for step in scenario.step if step.attack}) == 2 for scenario in scenarios)
    assert any("timeout 0.5" in step.run for step in steps)
    assert sum(not any(step.attack for step in scenario.step) for scenario in scenarios) >= 4, "look-alikes"


def test_there_is_a_scenario_of_each_grab() -> None:
    grabs = {path.stem: load(path) for path in SCENARIOS if path.stem.endswith("-grab")}
    assert grabs.keys() == {"memory-grab", "fork-grab", "disk-grab", "connection-grab", "block-grab"}
    for scenario in grabs.values():
        expected = {one.guest: one for one in scenario.expect}
        (step,) = scenario.step
        assert step.at_s > scenario.warmup_s, "the history is there before"
        assert (expected["a"].verdict == "attacker") == step.attack
        assert not step.attack or expected["a"].attack_class == "overflow"
        assert expected["c"].verdict == "innocent"
