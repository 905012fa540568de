"""Addresses as bytes, their text, and whether they lie in the provider's networks. Pure."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from hypervigil.guest.words import ZONE_INSIDE, ZONE_OUTSIDE, ZONE_UNKNOWN


def text(address: bytes) -> str:
    """An IPv4 or IPv6 address as people write it."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def network(word: str) -> tuple[int, int, int]:
    """``10.60.0.0/24`` as length in bytes, mask and value; ``ValueError`` for anything else."""
    address, _, prefix = word.partition("/")
    try:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except OSError:
        raise ValueError("not an address") from None
    bits = 8 * len(packed)
    length = int(prefix or bits)
    if not 0 <= length <= bits:
        raise ValueError("not a prefix")
    mask = ((1 << length) - 1) << (bits - length)
    return len(packed), mask, int.from_bytes(packed, "big") & mask


class Networks:
    """The provider's networks, as the host told them."""

    __slots__ = ("_known",)

    def __init__(self, words: list[str]) -> None:
        self._known = [network(word) for word in words]

    def zone(self, address: bytes) -> int:
        """Inside, outside, or unknown while nothing was told."""
        if not self._known:
            return ZONE_UNKNOWN
        value = int.from_bytes(address, "big")
        for length, mask, prefix in self._known:
            if length == len(address) and value & mask == prefix:
                return ZONE_INSIDE
        return ZONE_OUTSIDE
