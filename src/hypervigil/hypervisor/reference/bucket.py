"""Token buckets (``refill``, ``covers`` and ``spend`` in ``bpf/hypervigil.bpf.c``), in C's whole numbers. Pure."""

from dataclasses import dataclass

SECOND_NS = 1_000_000_000
_PACKET, _OCTET = 1_000_000, 1_000
"""Tokens of one."""
_LEAST_PACKETS, _LEAST_OCTETS = 1_000_000, 1_600_000


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate and its end; 0 is no limit of that unit."""

    packets_per_s_x1000: int = 0
    octets_per_s: int = 0
    end_ns: int = 0

    def in_force(self, now: int) -> bool:
        """Whether it limits anything now."""
        return self.end_ns > now and bool(self.packets_per_s_x1000 or self.octets_per_s)


NO_RATE = Rate()


@dataclass(slots=True)
class Bucket:
    """Tokens; they may go into debt by one frame."""

    last_ns: int = 0
    packets: int = 0
    octets: int = 0

    def refill(self, rate: Rate, now: int) -> None:
        """What has come in since the last time, up to the burst."""
        if now <= self.last_ns:
            return
        elapsed = min(now - self.last_ns, SECOND_NS)
        self.last_ns = now
        burst = max(_signed(rate.packets_per_s_x1000 * 100), _LEAST_PACKETS)
        self.packets = _signed(self.packets + _unsigned(rate.packets_per_s_x1000 * elapsed) // 1_000_000)
        self.packets = min(self.packets, burst)
        burst = max(_signed(rate.octets_per_s * 250), _LEAST_OCTETS)
        whole, rest = divmod(elapsed, 1000)
        octets = _unsigned(rate.octets_per_s * whole) // 1000 + _unsigned(rate.octets_per_s * rest) // 1_000_000
        self.octets = _signed(self.octets + octets)
        self.octets = min(self.octets, burst)

    def refill_to_a_second(self, rate: Rate, now: int) -> None:
        """Likewise of frames to groups, of which a second's worth may come at once."""
        elapsed = min(max(now - self.last_ns, 0), SECOND_NS)
        self.last_ns = max(now, self.last_ns)
        self.packets = _signed(self.packets + _unsigned(rate.packets_per_s_x1000 * elapsed) // 1_000_000)
        self.packets = min(self.packets, max(rate.packets_per_s_x1000, 1000) * 1000)

    def covers(self, rate: Rate) -> bool:
        """Whether a frame may pass."""
        packets = not rate.packets_per_s_x1000 or self.packets >= _PACKET
        return packets and (not rate.octets_per_s or self.octets > 0)

    def spend(self, rate: Rate, packets: int, octets: int) -> None:
        """It passes."""
        if rate.packets_per_s_x1000:
            self.packets -= packets * _PACKET
        if rate.octets_per_s:
            self.octets -= octets * _OCTET


def _unsigned(value: int) -> int:
    return value & 0xFFFF_FFFF_FFFF_FFFF


def _signed(value: int) -> int:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value
