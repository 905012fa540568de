"""The guard of what crosses the host itself: a tap that is no bridge's port passes nothing unless it is bound and our
program at it passed the frame, and nobody may speak to the host but where the policy says so.

The program's word is the packet's mark (``fabric.h``), which is taken off here before anybody routes by it. So a tap
whose program is gone passes nothing, as does a new one before its first frame, with no process of ours alive. Packets
on a bridge come by here only where ``bridge-nf-call-iptables`` is on, with the bridge as their device, and pass
untouched.
"""

from hypervigil.hypervisor.adapters.nftables.guard import TABLE, Guard, elements

_RULES = """\
add table inet {table}
delete table inet {table}
table inet {table} {{
  counter unbound_out {{ }}
  counter unbound_in {{ }}
  counter undecided {{ }}
  counter crossed {{ }}
  counter shielded {{ }}
  set bound {{ type iface_index; {bound} }}
  set foreign {{ type ifname; {foreign} }}
  chain from_tap {{
    iif != @bound counter name unbound_out drop
    meta mark and 0xffff0000 != 0x48580000 counter name undecided drop
    counter name crossed
  }}
  chain arriving {{
    type filter hook prerouting priority -310; policy accept;
    {from_taps}
    meta mark 0x48580001 fib daddr type local counter name shielded drop
    meta mark and 0xffff0000 == 0x48580000 meta pkttype host meta mark set 0
  }}
  chain for_the_host {{
    type filter hook input priority -310; policy accept;
    meta mark 0x48580001 icmpv6 type {{ 130-136, 143 }} return
    meta mark 0x48580001 udp dport {{ 67, 547 }} return
    meta mark 0x48580001 counter name shielded drop
  }}
  chain leaving {{
    type filter hook postrouting priority 350; policy accept;
    {to_taps}
  }}
}}
"""
_FROM_TAPS = 'meta iifkind "tun" iifname != @foreign jump from_tap'
_TO_TAPS = 'meta oifkind "tun" oifname != @foreign oif != @bound counter name unbound_in drop'
_RULE_COUNT = 8
"""Without these two."""


class RoutedGuard(Guard):
    """One table of the ``inet`` family. ``foreign`` names devices that are no VM's, such as a VPN's; where it is
    ``None`` no network is routed, and taps that are no bridge's ports are not looked at.
    """

    family = "inet"

    def __init__(self, table: str = TABLE) -> None:
        super().__init__(table)
        self.foreign: frozenset[str] | None = None

    def _script(self, bound: str) -> str:
        routed = self.foreign is not None
        return _RULES.format(
            table=self._table,
            bound=bound,
            foreign=elements(f'"{name}"' for name in sorted(self.foreign or ())),
            from_taps=_FROM_TAPS if routed else "",
            to_taps=_TO_TAPS if routed else "",
        )

    def _whole(self, rules: int, sets: dict[str, list[object]]) -> bool:
        wanted = _RULE_COUNT + (0 if self.foreign is None else 2)
        return rules == wanted and "bound" in sets and set(sets.get("foreign", ())) == (self.foreign or set())
