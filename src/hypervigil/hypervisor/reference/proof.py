"""What proof of source asks of a frame (``asked_of`` in ``bpf/proof.h``). Pure; nobody ever proves anything here.

A cookie needs the kernel's secret: the model has none, so every source stays one that has not answered.
"""

from enum import Enum

from hypervigil.hypervisor.reference.frame import ETH_HLEN, Frame
from hypervigil.hypervisor.reference.identity import Identity, link_local
from hypervigil.model.traffic import TrafficClass

_TCP = 6
_IPV4, _IPV6 = 0x0800, 0x86DD


class Asked(Enum):
    """What a frame for a port under proof meets."""

    NOTHING = "nothing"
    ANSWER = "answer"
    """It is not delivered, and answered in its place."""
    HOLD = "hold"
    """It is not delivered."""


def asked(identity: Identity, frame: Frame) -> Asked:
    """What a frame that comes to a port under proof meets."""
    if frame.ethertype not in {_IPV4, _IPV6} or not _for_itself(identity, frame):
        return Asked.NOTHING
    if not frame.readable:
        return Asked.HOLD
    if frame.protocol != _TCP or not frame.l4 or frame.multicast:
        return Asked.NOTHING
    if frame.fragment:
        return Asked.HOLD
    if frame.traffic is not TrafficClass.SYN:
        return Asked.NOTHING
    return Asked.ANSWER if _answerable(frame) else Asked.HOLD


def _for_itself(identity: Identity, frame: Frame) -> bool:
    address = frame.destination
    shared = any(address == one for one, _ in identity.pairs)
    free = not identity.addresses or identity.leasing is not None
    known = free or address in identity.addresses or link_local(address) or shared
    mine = frame.destination_mac == identity.mac or any(frame.destination_mac == mac for _, mac in identity.pairs)
    return known and mine


def _answerable(frame: Frame) -> bool:
    source = frame.source
    if frame.gso_size or frame.source_mac[0] & 1 or source == frame.destination or frame.length < frame.l4 + 20:
        return False
    if frame.ethertype == _IPV4:
        return frame.l4 == ETH_HLEN + 20 and 0 < source[12] < 224 and source[12] != 127
    return frame.l4 == ETH_HLEN + 40 and any(source[:8]) and source[0] != 0xFF
