"""What the host's processes say to each other. A message's tag is its type; unknown fields and tags are refused."""

import msgspec

from hypervigil.model.ids import Instant, LimitId, PortId, VmId
from hypervigil.model.limits import Limit
from hypervigil.model.observation import Sweep
from hypervigil.model.port_policy import Fabric, FabricChange, PortPolicy
from hypervigil.model.traffic import Direction, TrafficClass
from hypervigil.model.vm import Inventory


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", kw_only=True):
    pass


# --- sensors → monitor ---------------------------------------------------------------------------------------------
class InventoryChanged(_Message, frozen=True, kw_only=True, tag="inventory"):
    """The running domains, sent at start and at every change."""

    at: Instant
    inventory: Inventory


class Swept(_Message, frozen=True, kw_only=True, tag="sweep"):
    """One sweep."""

    sweep: Sweep


class Blind(_Message, frozen=True, kw_only=True, tag="blind"):
    """The sensors cannot see something any more (or, with ``since`` None, can see it again)."""

    at: Instant
    what: str
    since: Instant | None


FromSensors = InventoryChanged | Swept | Blind


# --- monitor → enforcer --------------------------------------------------------------------------------------------
class Tripwire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Wake the sensors when this many packets come within 100 ms; 0 switches it off."""

    port: PortId
    direction: Direction
    traffic: TrafficClass
    packets_per_100ms: int


class Guarding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where only ports with compiled policy pass anything, whether or not a process of ours is alive."""

    bridges: tuple[str, ...] | None = None
    """``None``: every bridge."""
    exempt: tuple[str, ...] = ()
    """Interfaces that may pass anything: uplinks."""
    routed: bool = False
    """The host routes for VMs: also taps that are no bridge's port pass nothing without a policy."""


class BindPorts(_Message, frozen=True, kw_only=True, tag="bind"):
    """Compile ports' policies into the kernel and end those of ports in ``release``. Each stands or falls alone."""

    request: int
    policies: tuple[PortPolicy, ...]
    release: tuple[PortId, ...] = ()
    guarding: Guarding | None = None
    """``None``: nothing is dropped for lack of a policy (monitor mode)."""
    fabric: FabricChange = FabricChange()
    """Who may reach whom, led on from the last; in force in one step with these ports' perimeters."""


class PutLimits(_Message, frozen=True, kw_only=True, tag="put"):
    """Put these limits in force (a limit with the id of one in force replaces it). Each stands or falls alone."""

    request: int
    limits: tuple[Limit, ...]


class LiftLimits(_Message, frozen=True, kw_only=True, tag="lift"):
    """End these limits and restore what was before. Lifting what is not in force is no error."""

    request: int
    limits: tuple[LimitId, ...]


class SetTripwires(_Message, frozen=True, kw_only=True, tag="tripwires"):
    """Set tripwire thresholds."""

    request: int
    tripwires: tuple[Tripwire, ...]


class SignHead(_Message, frozen=True, kw_only=True, tag="sign"):
    """Sign the journal's head with the key that only the enforcer can read, and keep a copy of it there."""

    request: int
    sequence: int
    digest: bytes


class Ask(_Message, frozen=True, kw_only=True, tag="ask"):
    """Ask for the state in force: answered with ``InForce``. Also the heartbeat that keeps expiries alive."""

    request: int


ToEnforcer = BindPorts | PutLimits | LiftLimits | SetTripwires | SignHead | Ask


# --- enforcer → monitor --------------------------------------------------------------------------------------------
class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How one step ended, after reading back what the kernel or hypervisor now says."""

    subject: str
    """The limit's or port's id."""
    ok: bool
    at: Instant
    detail: str = ""
    """The value read back, or the error and its mend."""


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """Answer to a request: one outcome per step."""

    request: int
    outcomes: tuple[Outcome, ...]


class Signed(_Message, frozen=True, kw_only=True, tag="signed"):
    """Answer to ``SignHead``."""

    request: int
    signature: bytes
    key_id: str


class InForce(_Message, frozen=True, kw_only=True, tag="in-force"):
    """Answer to ``Ask``: everything in force by the kernel's and hypervisor's own word."""

    request: int
    boot_id: str
    ports: tuple[PortPolicy, ...]
    limits: tuple[Limit, ...]
    guarding: Guarding | None = None
    fabric: Fabric = Fabric()


class Repaired(_Message, frozen=True, kw_only=True, tag="repaired"):
    """Somebody else changed what we had put in force; it is back (or, with ``ok`` false, could not be put back)."""

    at: Instant
    subject: str
    ok: bool
    detail: str


class Ended(_Message, frozen=True, kw_only=True, tag="ended"):
    """A limit ended without the monitor's word: its hard end came while the monitor was away, or its VM is gone."""

    at: Instant
    limit: LimitId
    vm: VmId
    reason: str


class Refused(_Message, frozen=True, kw_only=True, tag="refused"):
    """A request that could not be carried out at all, with one sentence that says why and the mend."""

    request: int
    reason: str


FromEnforcer = Done | Signed | InForce | Repaired | Ended | Refused
