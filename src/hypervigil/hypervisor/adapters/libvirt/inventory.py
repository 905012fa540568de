"""Running domains as libvirt tells them: XML to values (pure), and a reader that asks only for what changed."""

import contextlib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Self
from xml.etree import ElementTree as ET

import libvirt

from hypervigil.hypervisor.adapters.libvirt.channel import agent_channel
from hypervigil.hypervisor.adapters.libvirt.connection import LibvirtUnreachableError, disconnect, told
from hypervigil.hypervisor.adapters.links import Link
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.vm import Inventory, Nic, Vm

NAMESPACE = "urn:hypervigil:vm:1"
"""Of our own metadata: ``<hv:addresses xmlns:hv="urn:hypervigil:vm:1" mac="52:…">10.0.0.2 fd00::2</hv:addresses>``."""

MAX_XML = 4 * 1024 * 1024
REREAD = 8
"""Domains whose XML is read again at every look though nothing said that it changed: the safety net."""

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNITS = {"b": 1, "bytes": 1, "KB": 1000, "k": 1024, "KiB": 1024, "M": 1 << 20, "MiB": 1 << 20, "MB": 10**6,
          "G": 1 << 30, "GiB": 1 << 30, "GB": 10**9, "T": 1 << 40, "TiB": 1 << 40, "TB": 10**12}  # fmt: skip
_ADDRESS_PARAMETERS = {"IP", "IPV6"}


class DomainXmlError(ValueError):
    """A domain's XML is not what libvirt writes; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class DomainNic:
    """One ``<interface>``; ``device`` is ``None`` where the host has none, e.g. for user-mode networking."""

    port: PortId
    kind: str
    device: str | None
    bridge: str | None
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """What the live XML of one domain says."""

    vm: VmId
    name: str
    vcpus: int
    memory_kib: int
    nics: tuple[DomainNic, ...]
    channel: str | None = None
    """The host's end of its agent's port."""
    cpu: float | None = None
    """The quota of each of its vCPUs, as a fraction of a physical CPU."""


def parse_domain(text: str) -> Domain:
    """The live XML of one running domain: a ``Domain`` or ``DomainXmlError``, never anything else."""
    if len(text) > MAX_XML or "<!DOCTYPE" in text:
        raise DomainXmlError("a domain's XML is larger than libvirt's or declares a document type; it is not read")
    try:
        root = ET.fromstring(text)  # noqa: S314 - libvirt writes it; entities need the document type refused above
    except (ET.ParseError, ValueError) as error:
        raise DomainXmlError(f"a domain's XML cannot be parsed: {error}") from None
    name = root.findtext("name") or ""
    uuid = (root.findtext("uuid") or "").strip().lower()
    if root.tag != "domain" or not _UUID.fullmatch(uuid) or not name or not name.isprintable():
        raise DomainXmlError("a domain's XML has no name or no UUID that libvirt would write")
    vcpu = root.find("vcpu")
    vcpus = None if vcpu is None else vcpu.get("current") or vcpu.text
    ours: dict[str, list[str]] = {}
    for element in root.iterfind(f"metadata/{{{NAMESPACE}}}addresses"):
        ours.setdefault((element.get("mac") or "").lower(), []).extend((element.text or "").split())
    nics = tuple(_nic(name, interface, ours) for interface in root.iterfind("devices/interface"))
    memory_kib = _memory_kib(name, root.find("memory"))
    return Domain(VmId(uuid), name, _number(name, "vcpu", vcpus), memory_kib, nics, agent_channel(root), _quota(root))


def _nic(name: str, interface: ET.Element, ours: Mapping[str, list[str]]) -> DomainNic:
    mac = _attribute(interface, "mac", "address").lower()
    if not _MAC.fullmatch(mac):
        raise DomainXmlError(f"{name}: an interface has no MAC address")
    found = [
        parameter.get("value", "")
        for parameter in interface.iterfind("filterref/parameter")
        if parameter.get("name") in _ADDRESS_PARAMETERS
    ]
    addresses = []
    for text in [*found, *ours.get(mac, [])]:
        try:
            addresses.append(str(ip_address(text)))
        except ValueError:
            raise DomainXmlError(f"{name}: '{text[:64]}' is no IP address that {mac} could be bound to") from None
    return DomainNic(
        PortId(mac),
        interface.get("type", ""),
        _attribute(interface, "target", "dev") or None,
        _attribute(interface, "source", "bridge") or None,
        tuple(dict.fromkeys(addresses)),
    )


def _quota(root: ET.Element) -> float | None:
    """``None`` where there is none: libvirt writes -1 then, or nothing."""
    quota, period = root.findtext("cputune/quota", ""), root.findtext("cputune/period", "100000")
    if not (quota.isdecimal() and period.isdecimal() and len(quota) <= 15 and len(period) <= 15 and int(period)):
        return None
    return int(quota) / int(period) or None


def _attribute(parent: ET.Element, tag: str, name: str) -> str:
    element = parent.find(tag)
    return "" if element is None else element.get(name, "")


def _number(name: str, what: str, text: str | None) -> int:
    try:
        number = int(text or "")
    except ValueError:
        number = 0
    if not 0 < number < 1 << 53:
        raise DomainXmlError(f"{name}: <{what}> is no number that libvirt would write")
    return number


def _memory_kib(name: str, element: ET.Element | None) -> int:
    unit = _UNITS.get("KiB" if element is None else element.get("unit", "KiB"))
    number = _number(name, "memory", None if element is None else element.text)
    if unit is None or not number * unit // 1024:
        raise DomainXmlError(f"{name}: <memory> has a unit that libvirt would not write")
    return number * unit // 1024


def place(
    domain: Domain, links: Mapping[str, Link], *, paused: bool, migrating: bool = False
) -> tuple[Vm, tuple[DomainNic, ...]]:
    """The domain on this host, and its NICs that cannot be watched because no network device is there for them.

    The kernel's word on the bridge goes before the XML's: a port may have been moved since.
    """
    nics, missing = [], []
    for nic in domain.nics:
        link = links.get(nic.device) if nic.device is not None else None
        if link is None:
            missing.append(nic)
        else:
            nics.append(Nic(nic.port, link.name, link.index, link.master or nic.bridge, nic.addresses))
    known = domain.vm, domain.name, domain.vcpus, domain.memory_kib
    vm = Vm(*known, tuple(nics), paused, domain.channel, domain.cpu, migrating)
    return vm, tuple(missing)


_ELSEWHERE = {
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY,
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
}


def _migrates(paused: libvirt.virDomain) -> bool:
    """Whether a domain stands still because it runs on another host: it is on its way here, or just left."""
    with contextlib.suppress(libvirt.libvirtError):  # it is gone meanwhile
        state, reason = map(int, paused.state())
        return state == int(libvirt.VIR_DOMAIN_PAUSED) and reason in _ELSEWHERE
    return False


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the host. ``unseen`` says, one sentence each, what runs here and cannot be watched."""

    inventory: Inventory
    unseen: tuple[str, ...]
    expects_more: bool
    """A NIC's device is still to come: look again soon."""


class DomainReader:
    """Reads the running domains over one connection; XML only of those that are new, named by an event, or next in
    turn. ``wake`` is called, from another thread, when libvirt says that something changed.
    """

    def __init__(self, connection: libvirt.virConnect, wake: Callable[[], None]) -> None:
        self._connection = connection
        self._wake = wake
        self._domains: dict[tuple[str, int], Domain | str] = {}
        self._stale: set[str] = set()
        self._lock = threading.Lock()
        self._turn = 0
        self._callbacks: list[int] = []
        with contextlib.suppress(libvirt.libvirtError):  # without events, looking again every so often must do
            for event in (
                libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
                libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
                libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
                libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
            ):
                self._callbacks.append(connection.domainEventRegisterAny(None, event, self._changed, None))

    def _changed(self, _connection: object, domain: libvirt.virDomain, *_details: object) -> None:
        with self._lock:
            self._stale.add(domain.UUIDString())
        self._wake()

    def look(self, links: Mapping[str, Link]) -> Look:
        """What runs now, in order of start."""
        with self._lock:
            stale, self._stale = self._stale, set()
        try:
            running = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            paused = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED)
        except libvirt.libvirtError as error:
            with self._lock:
                self._stale |= stale
            raise LibvirtUnreachableError(f"libvirt does not say what runs: {told(error)}") from error
        still = {domain.UUIDString(): _migrates(domain) for domain in paused}
        keyed = sorted(((domain.UUIDString(), domain.ID()), domain) for domain in running if domain.ID() >= 0)
        again = {key for key, _ in self._in_turn(keyed)}
        known, self._domains = self._domains, {}
        vms, unseen, expects_more = [], [], False
        for key, domain in sorted(keyed, key=lambda one: one[0][1]):
            parsed = known.get(key)
            if (
                parsed is None
                or isinstance(parsed, str)
                or key[0] in stale
                or key in again
                or not _all_there(parsed, links)
            ):
                parsed = _read(domain)
                if parsed is None:
                    continue
            self._domains[key] = parsed
            if isinstance(parsed, str):
                unseen.append(parsed)
                continue
            vm, missing = place(parsed, links, paused=key[0] in still, migrating=still.get(key[0], False))
            vms.append(vm)
            for nic in missing:
                expects_more |= nic.kind in {"bridge", "network", "ethernet", "direct"}
                unseen.append(f"{vm.name}: the host has no device for its NIC {nic.port} (type {nic.kind})")
        return Look(Inventory(tuple(vms)), tuple(unseen), expects_more)

    def _in_turn(self, keyed: list[tuple[tuple[str, int], libvirt.virDomain]]) -> list[tuple[tuple[str, int], object]]:
        start = self._turn % max(1, len(keyed))
        self._turn = start + REREAD
        return list(keyed[start : start + REREAD])

    def close(self) -> None:
        """Give up the connection."""
        with contextlib.suppress(libvirt.libvirtError):
            for callback in self._callbacks:
                self._connection.domainEventDeregisterAny(callback)
        disconnect(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _all_there(domain: Domain, links: Mapping[str, Link]) -> bool:
    return all(nic.device in links for nic in domain.nics if nic.device is not None)


def _read(domain: libvirt.virDomain) -> Domain | str | None:
    """The domain, or a sentence that says why it cannot be known, or ``None`` when it has just ended."""
    try:
        return parse_domain(domain.XMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        return f"{domain.name()}: libvirt does not tell its XML: {told(error)}"
    except DomainXmlError as error:
        return str(error)
