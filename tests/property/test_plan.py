"""Limits on one thing, in any number and order: the strictest holds, and ending one leaves the others in force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.hypervisor.plan import LEAST, Knob, Place, Setting, changes, port_settings, strictest_value
from hypervigil.model.ids import Instant, LimitId, VmId
from hypervigil.model.limits import NIC_KINDS, VALUELESS_KINDS, Limit, LimitKind
from hypervigil.model.traffic import Direction, TrafficClass

PEERS = ("10.0.0.1", "10.0.0.2", "fd00::1", "FD00:0::1", "52:54:00:00:00:01")


@st.composite
def limits(draw: st.DrawFn, kinds: tuple[LimitKind, ...] = tuple(sorted(NIC_KINDS))) -> list[Limit]:
    made = []
    for number in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(kinds))
        value = None if kind in VALUELESS_KINDS else draw(st.sampled_from([0.0, 0.5, 1.0, 10.0, 1e6]))
        made.append(
            Limit(
                id=LimitId(f"l{number}"),
                vm=VmId("vm"),
                kind=kind,
                since=Instant(0.0),
                until=Instant(draw(st.sampled_from([1.0, 60.0, 900.0]))),
                reason="a test",
                value=value,
                direction=draw(st.sampled_from(Direction)),
                classes=frozenset(draw(st.sets(st.sampled_from([TrafficClass.SYN, TrafficClass.UDP])))),
                peer=draw(st.sampled_from(PEERS)) if kind is LimitKind.PEER else None,
            )
        )
    return made


def at_least_as_strict(one: Setting, other: Setting) -> bool:
    """Whether everything that ``other`` stops is stopped by ``one`` too, for as long."""

    def within(mine: float, its: float) -> bool:
        return not its or 0 < mine <= its

    return (
        within(one.packets_per_s, other.packets_per_s)
        and within(one.octets_per_s, other.octets_per_s)
        and one.shut >= other.shut
        and one.until >= other.until
    )


@given(limits(), st.randoms(use_true_random=False))
def test_order_does_not_matter(of: list[Limit], dice) -> None:
    mixed = list(of)
    dice.shuffle(mixed)
    assert port_settings(mixed) == port_settings(of)


@given(limits())
def test_every_limit_holds_wherever_it_applies(of: list[Limit]) -> None:
    together = port_settings(of)
    for limit in of:
        for place, alone in port_settings([limit]).items():
            assert at_least_as_strict(together[place], alone)


@given(limits())
def test_nothing_is_stricter_than_the_strictest(of: list[Limit]) -> None:
    each = [port_settings([limit]) for limit in of]
    for place, setting in port_settings(of).items():
        for unit in ("packets_per_s", "octets_per_s"):
            values = [getattr(alone[place], unit) for alone in each if place in alone if getattr(alone[place], unit)]
            assert getattr(setting, unit) == min(values, default=0.0)
        assert setting.shut == any(alone[place].shut for alone in each if place in alone)


@given(limits().filter(bool), st.data())
def test_ending_one_leaves_the_others_in_force(of: list[Limit], data: st.DataObject) -> None:
    ended = data.draw(st.sampled_from(of))
    left = [limit for limit in of if limit is not ended]
    before, after = port_settings(of), port_settings(left)
    for limit in left:
        for place, alone in port_settings([limit]).items():
            assert at_least_as_strict(after[place], alone)
    for place, setting in after.items():
        assert at_least_as_strict(before[place], setting), "and nothing gets stricter"
    assert before.keys() - after.keys() <= port_settings([ended]).keys()


@given(limits(), limits())
def test_changes_lead_from_one_to_the_other(old: list[Limit], new: list[Limit]) -> None:
    have, want = port_settings(old), port_settings(new)
    to_set, to_clear = changes(have, want)
    assert {place: setting for place, setting in {**have, **to_set}.items() if place not in to_clear} == want
    assert not to_set.keys() & set(to_clear)
    assert changes(want, want) == ({}, [])


@given(limits())
def test_a_limit_is_never_turned_into_none(of: list[Limit]) -> None:
    """In the kernel 0 means no limit."""
    for place, setting in port_settings(of).items():
        match place.knob:
            case Knob.GATE | Knob.PROOF:
                assert setting.packets_per_s == setting.octets_per_s == 0
            case _:
                assert setting.packets_per_s >= LEAST or setting.octets_per_s >= 1


DOMAIN_KINDS = tuple(sorted(set(LimitKind) - NIC_KINDS))


@given(limits(DOMAIN_KINDS), st.sampled_from(DOMAIN_KINDS))
def test_of_a_domain_the_least_value_holds(of: list[Limit], kind: LimitKind) -> None:
    values = [1.0 if limit.value is None else limit.value for limit in of if limit.kind is kind]
    assert strictest_value(of, kind) == (min(values) if values else None)
    assert port_settings(of) == {}


@pytest.mark.parametrize("peer", ["FD00:0::1", "fd00::1"])
def test_an_address_has_one_spelling(peer: str) -> None:
    limit = Limit(LimitId("l"), VmId("vm"), LimitKind.PEER, Instant(0.0), Instant(1.0), "a test", 5.0, peer=peer)
    assert list(port_settings([limit])) == [Place(Knob.PEER, address="fd00::1")]
