"""What a domain had before our limits, written into the domain itself: it goes with it where libvirt takes the limits.

A domain that migrates, or is saved and restored, keeps its quota, its throttled disks and its balloon: they are in its
definition. So is this, as metadata of the live domain, and whoever finds it there can put back what was.
"""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from hypervigil.model.limits import LimitKind

Original = dict[str, int]
_KEY, _NAMESPACE = "hypervigil", "urn:hypervigil:before-limits:1"
_ELEMENT = libvirt.VIR_DOMAIN_METADATA_ELEMENT
_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_NUMBER = re.compile(r"-?[0-9]{1,16}")


def write(domain: Any, originals: Mapping[LimitKind, Original]) -> None:
    """Replace what the domain says of this; ``libvirtError`` where it may not be written."""
    if not originals:
        if read(domain):
            domain.setMetadata(_ELEMENT, None, _KEY, _NAMESPACE, _LIVE)
        return
    root = ET.Element("before-limits")
    for kind, original in originals.items():
        for name, value in original.items():
            ET.SubElement(root, "was", {"kind": str(kind), "name": name, "value": str(value)})
    domain.setMetadata(_ELEMENT, ET.tostring(root, encoding="unicode"), _KEY, _NAMESPACE, _LIVE)


def read(domain: Any) -> dict[LimitKind, Original]:
    """What it says; what is none of ours or cannot be is left out."""
    try:
        text = domain.metadata(_ELEMENT, _NAMESPACE, _LIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return {}
        raise
    found: dict[LimitKind, Original] = {}
    for element in ET.fromstring(text).iter():  # noqa: S314 - libvirt's own XML, from root's socket
        kind, name, value = (element.get(key, "") for key in ("kind", "name", "value"))
        if kind in set(LimitKind) and name and _NUMBER.fullmatch(value):
            found.setdefault(LimitKind(kind), {})[name] = int(value)
    return found
