"""The product as an operator has it: started, asked and stopped only through its command line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lab.errors import LabError
from lab.paths import STATE, make

_REMEMBERED = STATE / "product.json"  # where a product runs that the lab started, for cleaning up after a crash
_ANSWER_S = 60.0


@dataclass(frozen=True)
class Places:
    """Where an installation lies; by default where an operator's does."""

    run_dir: Path = Path("/run/hypervigil")
    state_dir: Path = Path("/var/lib/hypervigil")
    pin_dir: Path = Path("/sys/fs/bpf/hypervigil")

    @property
    def options(self) -> list[str]:
        """The options that say so; none where it is the default."""
        named = {"run-dir": self.run_dir, "state-dir": self.state_dir, "pin-dir": self.pin_dir}
        usual = Places()
        usually = {"run-dir": usual.run_dir, "state-dir": usual.state_dir, "pin-dir": usual.pin_dir}
        return [f"--{name}={path}" for name, path in named.items() if path != usually[name]]


class Evidence(msgspec.Struct, frozen=True):
    """One fact of a case, as the product says it."""

    kind: str
    origin: str
    at: float
    value: float
    baseline: float | None
    unit: str
    text: str
    name: str | None = None


class Case(msgspec.Struct, frozen=True):
    """One case, as the product says it. Times are Unix time."""

    case: str
    name: str | None
    opened_at: float
    decided_at: float | None
    closed_at: float | None
    role: str | None
    attack: str | None
    target: str | None
    evidence: tuple[Evidence, ...]
    cause: str | None = None
    counterfactual: str | None = None
    closing_reason: str | None = None


class Limit(msgspec.Struct, frozen=True):
    """One limit, as the product says it. Times are Unix time."""

    id: str
    name: str | None
    kind: str
    value: float | None
    case: str | None
    to: float
    in_force_at: float | None
    lifted_at: float | None
    state: str
    peer: str | None = None
    direction: str | None = None
    classes: tuple[str, ...] = ()


class Told(msgspec.Struct, frozen=True):
    """A fact of a guest's agent on record, as the product says it; ``at`` is Unix time."""

    name: str
    kind: str
    at: float
    text: str


class Vm(msgspec.Struct, frozen=True):
    """One VM, as the product says it."""

    name: str
    level: str
    role: str | None
    limits: int
    samples: int


@dataclass(frozen=True)
class Product:
    """One installation of the product; ``nice`` is that of its command line where the lab asks.

    ``inside``: what brings a program to the host that it is on, if that is another than this.
    """

    places: Places = Places()
    nice: int = 0
    inside: tuple[str, ...] = ()

    def call(self, *arguments: str, timeout_s: float = _ANSWER_S) -> subprocess.CompletedProcess[str]:
        """Run ``hypervigil ARGUMENTS``."""
        program = Path(sys.executable).parent / "hypervigil"
        if not program.is_file():
            raise LabError(f"{program} is not there: run 'make setup'")
        argv = [*self.inside, "nice", "-n", str(self.nice), str(program), *self.places.options, *arguments]
        try:
            return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            raise LabError(f"'hypervigil {' '.join(arguments)}' did not end within {timeout_s:.0f} s") from None

    def ask(self, *arguments: str) -> dict[str, Any]:
        """The JSON answer of a command that must succeed."""
        body: dict[str, Any] = json.loads(self._must(*arguments, "--json"))
        return body

    def answer(self, *arguments: str) -> dict[str, Any]:
        """The JSON answer of a command that may end with a complaint; ``error`` where it said nothing else."""
        done = self.call(*arguments, "--json")
        try:
            body: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {"error": (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"}
        return body

    def up(self, policy: str, *, enforce: bool = True) -> None:
        """Start it with a policy and wait until it is ready; LabError with its own words where it does not come up."""
        path = make(STATE) / "policy.toml"
        path.write_text(policy, encoding="utf-8")
        try:
            self._must("up", "--detach", "--policy", str(path), *(["--enforce"] if enforce else []))
        except LabError as error:
            raise LabError(f"{error}{self.logs()}") from None
        finally:
            path.unlink()

    def off(self) -> None:
        """Stop it and remove everything that it put in force."""
        self._must("off")

    def ready(self) -> bool:
        """Whether every part of it is connected and sees."""
        done = self.call("status", "--json")
        return done.returncode == 0 and bool(json.loads(done.stdout)["ready"])

    def vms(self) -> list[Vm]:
        """Every VM that it watches."""
        return msgspec.convert(self.ask("vms")["vms"], list[Vm])

    def vm(self, name: str) -> dict[str, Any]:
        """All that it says of one VM."""
        found: dict[str, Any] = next(vm for vm in self.ask("vms")["vms"] if vm["name"] == name)
        return found

    def cases(self) -> list[Case]:
        """All cases, newest first, closed ones too."""
        return msgspec.convert(self.ask("cases")["cases"], list[Case])

    def limits(self) -> list[Limit]:
        """All limits, ended ones too."""
        return msgspec.convert(self.ask("limits", "--all")["limits"], list[Limit])

    def told(self, names: Mapping[str, str], last: int = 1000) -> list[Told]:
        """Of guests, ``names`` by their UUIDs, what the newest records say of their agents, oldest first."""
        found = []
        for record in self.ask("journal", "show", "--last", str(last))["records"]:
            body = record["body"]
            if record["kind"] == "guest" and body["vm"] in names:
                name = names[body["vm"]]
                found.append(
                    Told(name, body["kind"], record["wall_at"], body["text"].replace(body["vm"], name.upper()))
                )
        return found

    def pids(self) -> dict[str, int]:
        """Process ids of the services and the supervisor."""
        processes = json.loads((self.places.run_dir / "processes.json").read_text())
        return {**processes["services"], "supervisor": processes["supervisor"]}

    def logs(self) -> str:
        """The tail of every process's log."""
        logs = sorted((self.places.run_dir / "log").glob("*.log"))
        return "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in logs)

    def _must(self, *arguments: str) -> str:
        done = self.call(*arguments)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise LabError(f"'hypervigil {' '.join(arguments)}' failed: {said.removeprefix('hypervigil: ')}")
        return done.stdout


@contextmanager
def watching(policy: str, places: Places | None = None) -> Iterator[Product]:
    """The product in enforce mode, without any history; at the end it is off and its state is gone.

    In the operator's own places unless told otherwise; if there is state in them, it is left alone and the lab's is put
    beside it.
    """
    usual = places or Places()
    product = Product(usual)
    if product.call("status").returncode == 0:
        raise LabError("Hypervigil runs on this host already: stop it with 'hypervigil off'")
    if usual.state_dir.is_dir() and any(usual.state_dir.iterdir()):
        beside = usual.state_dir.with_name(usual.state_dir.name + "-lab")
        product = Product(Places(usual.run_dir, beside, usual.pin_dir))
    make(STATE)
    _REMEMBERED.write_text(
        json.dumps([str(product.places.run_dir), str(product.places.state_dir), str(product.places.pin_dir)])
    )
    try:
        product.up(policy)
        yield product
    finally:
        _end(product)


def clean_all() -> list[str]:
    """Stop a product that a crashed lab started, and remove its state; what was removed, in words."""
    try:
        run_dir, state_dir, pin_dir = json.loads(_REMEMBERED.read_text())
    except FileNotFoundError:
        return []
    _end(Product(Places(Path(run_dir), Path(state_dir), Path(pin_dir))))
    return ["the product and its state"]


def _end(product: Product) -> None:
    product.off()
    for directory in (product.places.state_dir, product.places.run_dir):
        if directory.is_dir():
            shutil.rmtree(directory)
    _REMEMBERED.unlink()
