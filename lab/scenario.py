"""Scenario files: read strictly, checked whole, and explained in one sentence where they are wrong.

The form is described in docs/scenarios.md.
"""

import difflib
import hashlib
import math
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from lab.errors import LabError
from lab.network import Networks, NetworkSpec

EXT = "ext"
SECONDS_MOST = 3600.0
WORK = ("idle", "web-server", "web-client", "batch", "writer")
CLIENT_RATE = 8  # requests a second of a web client, modest for emulated guests
_BYTES_MOST = 1 << 20
_GUESTS_MOST = 16
_STEPS_MOST = 100
_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}")

Verdict = Literal["attacker", "victim", "reflector", "overloaded", "cleared", "none", "innocent"]
AttackClass = Literal[
    "flood", "scan", "spoof", "overflow", "reflection", "brute-force", "exfiltration", "beaconing", "mining", "none"
]


class NetworkTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[network]]``: a shared network; the host has its first address."""

    name: str
    cidr: str


class GuestTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[guest]]``: a virtual machine, numbered in its network by its place in the file."""

    name: str
    network: str
    tenant: str = "default"
    memory_mib: int = 192
    vcpus: int = 1
    work: str = "idle"
    agent: bool = False
    """Whether our agent runs in it."""
    new_flows_per_s: int | None = None
    """Its budget in the policy: so many conversations a second it is to begin."""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[step]]``: a shell command at a place, ``at_s`` seconds after warm-up began."""

    at_s: float
    on: str
    run: str
    attack: bool = False
    target: str | None = None
    passes: float | None = None
    """Of an attack: at most this share of its frames may arrive."""

    @property
    def boots(self) -> bool:
        """Whether its guest starts with it, cold, and acts during its own boot."""
        return self.attack and self.at_s == 0 and self.on != EXT


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"attack_class": "class"}):
    """``[[expect]]``: what must have been decided of a guest at the end."""

    guest: str
    verdict: Verdict
    attack_class: AttackClass | None = None
    within_s: float | None = None
    released: bool | None = None
    keeps: float | None = None
    """At least this share of its work of before it does while steps run."""
    loses: float | None = None
    """In the control run it loses at least this share of it, or the run proves nothing."""


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[storage]``: all scratch disks lie on one storage, which does so much a second, first come, first served."""

    requests_per_s: int


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[limits]``: how long it lasts, warm-up included."""

    duration_s: float


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole file."""

    name: str
    network: tuple[NetworkTable, ...]
    guest: tuple[GuestTable, ...]
    limits: Limits
    warmup_s: float = 45.0
    seed: int = 0
    step: tuple[Step, ...] = ()
    expect: tuple[Expectation, ...] = ()
    storage: Storage | None = None

    @property
    def hash(self) -> str:
        """Names what the file says, whatever its comments and order of keys."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    def network_specs(self) -> list[NetworkSpec]:
        """Its networks."""
        return [NetworkSpec(table.name, table.cidr) for table in self.network]

    def index(self, guest: GuestTable) -> int:
        """A guest's number in its network, from 0 on."""
        return [other.name for other in self.guest if other.network == guest.network].index(guest.name)


@dataclass(frozen=True)
class Names:
    """What ``$ip_NAME``, ``$mac_NAME``, ``$gateway`` and ``$seed`` stand for at one place."""

    addresses: Mapping[str, str]
    macs: Mapping[str, str]
    gateway: str
    seed: int

    def put_in(self, command: str) -> str:
        """A command with its names replaced; a shell's own variables stay."""
        words = {
            "gateway": self.gateway,
            "seed": str(self.seed),
            **{f"ip_{name}": address for name, address in self.addresses.items()},
            **{f"mac_{name}": mac for name, mac in self.macs.items()},
        }
        return _pattern(words).sub(lambda found: words[found[1] or found[2]], command)


def load(path: Path) -> Scenario:
    """The scenario in a file; LabError in one sentence, with the mend, where it is none."""
    try:
        with path.open("rb") as file:
            text = file.read(_BYTES_MOST + 1)
    except FileNotFoundError:
        raise LabError(f"{path} does not exist: name a scenario file, e.g. one of lab/scenarios") from None
    except IsADirectoryError:
        raise LabError(f"{path} is a folder: name a scenario file in it") from None
    except PermissionError:
        raise LabError(f"you may not read {path}: be root, or change its permissions") from None
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}") from None
    if len(text) > _BYTES_MOST:
        raise LabError(f"{path} is larger than a mebibyte: is it a scenario?")
    try:
        return parse(text.decode(), str(path))
    except UnicodeDecodeError:
        raise LabError(f"{path} is not text in UTF-8: save it as UTF-8") from None


def parse(text: str, name: str = "the scenario") -> Scenario:
    """The scenario that ``text`` says; ``name`` is how errors call it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LabError(f"{name} is not TOML: {str(error)[:1].lower()}{str(error)[1:]}; mend that line") from None
    except RecursionError:
        raise LabError(f"{name} is nested far too deep to be a scenario") from None
    try:
        scenario = msgspec.convert(document, Scenario)
    except msgspec.ValidationError as error:
        raise LabError(f"{name}: {_explained(str(error), document)}") from None
    try:
        _check(scenario)
    except LabError as error:
        raise LabError(f"{name}: {error}") from None
    return scenario


def is_client(work: str) -> str | None:
    """Of whom a guest with this work is a web client, if it is one."""
    kind, separator, target = work.partition(":")
    return target.split(" ")[0] if kind == "web-client" and separator else None


# --- checks that concern more than one value ---


def _check(scenario: Scenario) -> None:
    _number("warmup_s", scenario.warmup_s)
    duration = _number("duration_s in [limits]", scenario.limits.duration_s)
    if duration == 0 or scenario.warmup_s > duration:
        raise LabError(
            f"duration_s in [limits] is {duration:g}, less than warmup_s = {scenario.warmup_s:g}: it counts from the "
            "beginning of warm-up, make it longer"
        )
    if not scenario.name.strip():
        raise LabError("name is empty: name the scenario")
    if not scenario.network or not scenario.guest:
        raise LabError("there must be at least one [[network]] and one [[guest]]")
    if len(scenario.guest) > _GUESTS_MOST or len(scenario.step) > _STEPS_MOST:
        raise LabError(f"at most {_GUESTS_MOST} guests and {_STEPS_MOST} steps fit on one host: take some out")
    _unique("[[network]]", (table.name for table in scenario.network))
    _unique("[[guest]]", (table.name for table in scenario.guest))
    _unique("[[expect]] for guest", (table.guest for table in scenario.expect))
    networks = Networks(scenario.network_specs())
    guests = {table.name: table for table in scenario.guest}
    for guest in scenario.guest:
        _check_guest(scenario, guest, guests, networks)
    for number, step in enumerate(scenario.step, 1):
        try:
            _check_step(scenario, step, guests)
        except LabError as error:
            raise LabError(f"step {number}: {error}") from None
    for expectation in scenario.expect:
        _known("expect", expectation.guest, guests)
        if expectation.within_s is not None and _number("within_s", expectation.within_s) == 0:
            raise LabError(f"expect for {expectation.guest}: within_s is 0, give it some seconds")
        for key, share in (("keeps", expectation.keeps), ("loses", expectation.loses)):
            if share is not None:
                _share(key, share)
    if scenario.storage is not None and not 10 <= scenario.storage.requests_per_s <= 100_000:
        raise LabError(f"requests_per_s in [storage] is {scenario.storage.requests_per_s}, take 10 to 100000")
    boots = [step.on for step in scenario.step if step.boots]
    _unique("step that boots guest", boots)


def _check_guest(scenario: Scenario, guest: GuestTable, guests: Mapping[str, GuestTable], networks: Networks) -> None:
    where = f"guest {guest.name!r}"
    if not _NAME.fullmatch(guest.name) or guest.name == EXT:
        raise LabError(f"{where}: a name is a letter and at most 29 more of a-z, 0-9 and -, and not 'ext'")
    _known(f"{where}: network", guest.network, [table.name for table in scenario.network])
    networks[guest.network].address(scenario.index(guest))
    if not 128 <= guest.memory_mib <= 16384:
        raise LabError(f"{where}: memory_mib is {guest.memory_mib}, take 128 to 16384")
    if not 1 <= guest.vcpus <= 16:
        raise LabError(f"{where}: vcpus is {guest.vcpus}, take 1 to 16")
    if guest.new_flows_per_s is not None and not 1 <= guest.new_flows_per_s <= 1_000_000:
        raise LabError(f"{where}: new_flows_per_s is {guest.new_flows_per_s}, take 1 to 1000000")
    target = is_client(guest.work)
    if target is not None:
        if target not in guests or guests[target].work != "web-server":
            servers = [other.name for other in guests.values() if other.work == "web-server"]
            raise LabError(f"{where}: it is a client of {target!r}, which is no web-server: {_choices(servers)}")
        return
    if guest.work not in WORK or guest.work == "web-client":
        near = difflib.get_close_matches(guest.work.split(":")[0], WORK, 1, 0.75)
        if near:
            wanted = near[0] + (":NAME" if near[0] == "web-client" else "")
            raise LabError(f"{where}: work is {guest.work!r}, write {wanted!r}")
        if not guest.work.strip():
            raise LabError(f"{where}: work is empty, write 'idle'")
        _check_names(guest.work, guests)


def _check_step(scenario: Scenario, step: Step, guests: Mapping[str, GuestTable]) -> None:
    _number("at_s", step.at_s)
    if step.passes is not None:
        _share("passes", step.passes)
        if not step.attack:
            raise LabError("passes is of an attack: write attack = true, or leave it out")
    if step.at_s > scenario.limits.duration_s:
        raise LabError(f"at_s is {step.at_s:g}, beyond the end at duration_s = {scenario.limits.duration_s:g}")
    places = [*guests, EXT]
    _known("on", step.on, places)
    if step.target is not None:
        _known("target", step.target, places)
        if step.target == step.on:
            raise LabError(f"target is {step.target!r}, where it runs: name the place that it is aimed at")
        if not step.attack:
            raise LabError("a target without attack = true: take it out, or say attack = true")
    if not step.run.strip():
        raise LabError("run is empty: write a shell command")
    _check_names(step.run, guests)


def _check_names(command: str, guests: Collection[str]) -> None:
    words = [f"{kind}_{name}" for name in guests for kind in ("ip", "mac")] + [f"ip_{EXT}"]
    left = re.search(r"\$\{?(?:ip|mac)_[\w-]*\}?", _pattern(words).sub("", command))
    if left is not None:
        raise LabError(f"{left[0]!r} names no guest: {_choices(f'${word}' for word in words)}")


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Finds ``$WORD`` and ``${WORD}``, the longest word first."""
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"\$(?:({either})(?![a-z0-9_])|\{{({either})\}})")


def _number(what: str, value: float) -> float:
    if not math.isfinite(value) or value < 0 or value > SECONDS_MOST:
        raise LabError(f"{what} is {value:g}: take a number of seconds from 0 to {SECONDS_MOST:g}")
    return value


def _share(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise LabError(f"{what} is {value:g}: take a share from 0 to 1")


def _unique(what: str, names: Iterable[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise LabError(f"{what} {twice[0]!r} is there twice: name each once")


def _known(what: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise LabError(f"{what} is {name!r}, which is not there: {_choices(names)}")


def _choices(names: Iterable[str]) -> str:
    return "there is " + (", ".join(names) or "none")


# --- what the decoder says, in words ---

_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
_TABLES: dict[str, type[msgspec.Struct]] = {
    "network": NetworkTable,
    "guest": GuestTable,
    "step": Step,
    "expect": Expectation,
    "limits": Limits,
}
_VALUES = {"verdict": get_args(Verdict), "class": get_args(AttackClass)}


def _explained(error: str, document: Mapping[str, Any]) -> str:
    """The decoder's complaint, with the place as a reader of the file sees it and with what could be there."""
    message, _, path = error.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    table = re.match(r"\w+", path)
    where = _where(path, document)
    if unknown := re.search(r"unknown field `(.*)`", message):
        keys = _keys(_TABLES.get(table[0], Scenario) if table else Scenario)
        near = difflib.get_close_matches(unknown[1], keys, 1)
        mend = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(keys)}"
        return f"{where}unknown key {unknown[1]!r}: {mend}"
    if missing := re.search(r"missing required field `(.*)`", message):
        tables = _TABLES.get(missing[1])
        wanted = missing[1] if tables is None else f"[{missing[1]}]" if tables is Limits else f"[[{missing[1]}]]"
        return f"{where}{wanted} is missing: add it"
    if message.startswith("Invalid enum value"):
        key = path.rpartition(".")[2]
        return f"{where}{message.removeprefix('Invalid enum value ')} is not possible: take {', '.join(_VALUES[key])}"
    if mismatch := re.search(r"Expected `(.*)`, got `(.*)`", message):
        expected = [_TYPES.get(kind, kind) for kind in mismatch[1].split(" | ") if kind != "null"]
        if path in _TABLES:
            return f"{path} must be {'a table [limits]' if path == 'limits' else f'tables [[{path}]]'}"
        return f"{where}must be {' or '.join(expected)}, and is {_TYPES.get(mismatch[2], mismatch[2])}"
    return f"{where}{message[:1].lower()}{message[1:]}"


def _keys(table: type[msgspec.Struct]) -> list[str]:
    return list(table.__struct_encode_fields__)


def _where(path: str, document: Mapping[str, Any]) -> str:
    """``step[1].at_s`` as ``step 2, at_s ``; guests and networks by their names."""
    found = re.fullmatch(r"(\w+)(?:\[(\d+)\])?(?:\.(\w+))?.*", path)
    if found is None:
        return ""
    table, number, key = found.groups()
    if number is None:
        return f"{table}{f', {key}' if key else ''} " if table not in _TABLES or key else f"[{table}]: "
    row = document[table][int(number)]
    named = row.get("name") if isinstance(row, dict) else None
    title = f"{table} {named!r}" if isinstance(named, str) else f"{table} {int(number) + 1}"
    return f"{title}, {key} " if key else f"{title}: "
