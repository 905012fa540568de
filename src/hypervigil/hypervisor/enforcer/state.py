"""What the enforcer must know after any death of its own: ports, limits, and what was before them. Bounded, atomic."""

import os
import secrets
from pathlib import Path

import msgspec

from hypervigil.model.ids import LimitId, PortId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.port_policy import Fabric, PortPolicy
from hypervigil.wire.messages import Guarding

FILE = "in-force.json"
MAX_LIMITS = 10_000


class Original(msgspec.Struct, frozen=True):
    """What a domain had before the first limit of a kind."""

    vm: VmId
    kind: LimitKind
    was: dict[str, int]


class State(msgspec.Struct):
    """In force by our doing, in this run of the machine."""

    boot_id: str
    ports: dict[PortId, PortPolicy] = {}
    limits: dict[LimitId, Limit] = {}
    originals: list[Original] = []
    guarding: Guarding | None = None
    fabric: Fabric = Fabric()

    def of(self, vm: VmId) -> list[Limit]:
        """The limits of one VM; also asked by the thread that speaks with libvirt."""
        return [limit for limit in list(self.limits.values()) if limit.vm == vm]

    def original(self, vm: VmId, kind: LimitKind) -> dict[str, int] | None:
        """What the domain had before our first limit of this kind."""
        return next((o.was for o in self.originals if (o.vm, o.kind) == (vm, kind)), None)

    def forget(self, vm: VmId, kind: LimitKind) -> None:
        """The domain has again what it had."""
        self.originals = [o for o in self.originals if (o.vm, o.kind) != (vm, kind)]


def this_boot() -> str:
    """Which run of this machine it is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def load(directory: Path) -> State:
    """The state on disk; an empty one where there is none.

    Of another run of the machine only the guard is taken over: guests that start before the monitor has spoken pass
    nothing where a policy was enforced.
    """
    try:
        state = msgspec.json.decode((directory / FILE).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):
        return State(this_boot())
    return state if state.boot_id == this_boot() else State(this_boot(), guarding=state.guarding)


def save(directory: Path, state: State) -> None:
    """Replace the file whole. ``OSError`` leaves the old one: then what it describes must not change either."""
    temporary = directory / f".{FILE}.{secrets.token_hex(4)}"
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / FILE)
    finally:
        temporary.unlink(missing_ok=True)


def remove(directory: Path) -> None:
    """Nothing of ours is in force any more."""
    (directory / FILE).unlink(missing_ok=True)
