"""What a domain had before our limits, written into the domain itself: it goes with it where libvirt takes the limits.

A domain that migrates, or is saved and restored, keeps its quota, its throttled disks and its balloon: they are in its
definition. So is this, as metadata of the live domain, and whoever finds it there can put back what was. Who was paused
is not resumed so: whether somebody else wants it to stand still is not known.
"""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from hypervigil.model.limits import LimitKind

Original = dict[str, int]
"""What was before a limit, by name: enough to put it back exactly."""
_KEY, _NAMESPACE = "hypervigil", "urn:hypervigil:before-limits:1"
_ELEMENT = libvirt.VIR_DOMAIN_METADATA_ELEMENT
_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
MARKED = frozenset({LimitKind.CPU, LimitKind.BLOCK_OPERATIONS, LimitKind.BLOCK_OCTETS, LimitKind.MEMORY})
_NUMBER = re.compile(r"-?[0-9]{1,16}")
_DISK = re.compile(r"[a-z]{2,3}[a-z]{0,4}")
_CPU = {"vcpu_quota": range(-1, 1 << 53), "vcpu_period": range(1000, 1_000_001), "cpu_shares": range((1 << 18) + 1)}


def write(domain: Any, originals: Mapping[LimitKind, Original]) -> None:
    """Replace what the domain says of this; ``libvirtError`` where it may not be written."""
    marked = {kind: original for kind, original in originals.items() if kind in MARKED}
    if not marked:
        if _text(domain) is not None:
            domain.setMetadata(_ELEMENT, None, _KEY, _NAMESPACE, _LIVE)
        return
    root = ET.Element("before-limits")
    for kind, original in marked.items():
        for name, value in original.items():
            ET.SubElement(root, "was", {"kind": str(kind), "name": name, "value": str(value)})
    domain.setMetadata(_ELEMENT, ET.tostring(root, encoding="unicode"), _KEY, _NAMESPACE, _LIVE)


def read(domain: Any) -> dict[LimitKind, Original]:
    """What it says; what is none of ours or cannot be is left out."""
    found: dict[LimitKind, Original] = {}
    try:
        root = ET.fromstring(_text(domain) or "<none/>")  # noqa: S314 - libvirt's own XML, from root's socket
    except ET.ParseError:
        return {}
    for element in root.iter():
        kind, name, value = (element.get(key, "") for key in ("kind", "name", "value"))
        if kind in MARKED and _NUMBER.fullmatch(value):
            found.setdefault(LimitKind(kind), {})[name] = int(value)
    return {kind: original for kind, original in found.items() if _can_be(kind, original)}


def _text(domain: Any) -> str | None:
    try:
        text: str = domain.metadata(_ELEMENT, _NAMESPACE, _LIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise
    return text


def _can_be(kind: LimitKind, original: Original) -> bool:
    """Whether libvirt can be told to put this back."""
    match kind:
        case LimitKind.CPU:
            return original.keys() == _CPU.keys() and all(value in _CPU[name] for name, value in original.items())
        case LimitKind.MEMORY:
            return original.keys() == {"kib"} and original["kib"] > 0
        case _:
            return all(_DISK.fullmatch(name) and value >= 0 for name, value in original.items())
