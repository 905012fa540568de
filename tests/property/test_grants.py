"""Whatever guests ask for and hosts see: nobody gets more than allowed, no suspect anything, nothing lasts for ever."""

from dataclasses import dataclass
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from hypervigil.host.hrem.grants import Grants
from hypervigil.model.grants import Ask, GrantPolicy, HostSize
from hypervigil.model.ids import HOST, Instant, LimitId, VmId
from hypervigil.model.limits import Limit, LimitKind
from hypervigil.model.observation import ResourceSample, Sweep
from hypervigil.model.policy import Policy
from hypervigil.model.report import OrderLimit
from hypervigil.model.status import Origin, Role
from hypervigil.model.vm import Vm

VMS = (VmId("a"), VmId("b"), VmId("c"))
KINDS = (LimitKind.CPU, LimitKind.MEMORY)
GENTLE = {Role.CLEARED, Role.OVERLOADED, Role.VICTIM}
MAXIMUM_KIB = 900_000

share = st.sampled_from([0.0, 0.2, 0.38, 0.7, 0.9, 0.97, 1.0, None])


def sample(vm: VmId) -> st.SearchStrategy[ResourceSample]:
    balloon = st.sampled_from([100_000.0, 300_000.0, 100_000.0, 0.0, None])
    return st.builds(ResourceSample, st.just(vm), cpu=share, memory=share, balloon_kib=balloon)


@dataclass(frozen=True)
class Moment:
    """Half a second or longer: who asks, what is seen, what HSEM takes everybody for."""

    seconds: float
    asks: list[tuple[VmId, LimitKind, float]]
    samples: list[ResourceSample]
    roles: dict[VmId, Role | None]
    running: tuple[VmId, ...]
    fails: bool


moments = st.builds(
    Moment,
    st.sampled_from([0.5, 1.0, 2.0, 4.0, 40.0, 400.0]),
    st.lists(
        st.tuples(st.sampled_from(VMS), st.sampled_from(KINDS), st.sampled_from([0.0, 0.5, 50_000.0, 1e12])), max_size=4
    ),
    st.tuples(*(sample(vm) for vm in (*VMS, HOST))).map(list),
    st.fixed_dictionaries({vm: st.sampled_from([Role.CLEARED, Role.CLEARED, *Role, None]) for vm in VMS}),
    st.sampled_from([VMS, VMS, VMS, VMS[:2], VMS[1:]]),
    st.booleans(),
)
policies = st.builds(
    GrantPolicy,
    cpu=st.sampled_from([1.0, 1.5, 9.0]),
    memory=st.sampled_from([1.0, 2.0, 99.0]),
    victim=st.sampled_from([0.1, 0.5, 1.0]),
    headroom=st.sampled_from([0.05, 0.2, 0.9]),
)


@settings(deadline=None)
@given(policies, st.lists(moments, max_size=25))
def test_no_grant_is_more_than_allowed_or_for_ever(policy: GrantPolicy, life: list[Moment]) -> None:
    numbers = count(1)
    grants = Grants(Policy(grants=policy), HostSize(4, 2e6), lambda: LimitId(f"l{next(numbers)}"))
    now = Instant(1000.0)
    standing: dict[LimitId, Limit] = {}
    for moment in life:
        grants.inventory([Vm(vm, str(vm), 2, MAXIMUM_KIB, cpu=0.4) for vm in moment.running])
        for vm, kind, more in moment.asks:
            grants.ask(Ask(vm, kind, now, more, Origin.GUEST_REPORTED))
        grants.observe(Sweep(1, now, moment.seconds, (), tuple(moment.samples)), now)
        now = Instant(now + moment.seconds)
        answer = grants.decide(now, moment.roles.get)
        for decision in answer.decisions:
            if isinstance(decision, OrderLimit):
                limit = decision.limit
                assert limit.id not in standing
                assert limit.reason
                assert limit.since == now < limit.until <= now + policy.hold_s
                standing[limit.id] = limit
            else:
                assert decision.reason
                del standing[decision.limit]
        assert list(standing.values()) == grants.given or {*standing} == {one.id for one in grants.given}
        for limit in standing.values():
            own, value = limit.raised_from or 0.0, limit.value or 0.0
            assert limit.vm in moment.running
            assert moment.roles[limit.vm] in GENTLE
            assert value <= own * policy.most(limit.kind) + 0.001
            assert value <= (1.0 if limit.kind is LimitKind.CPU else MAXIMUM_KIB) + 0.001
            if moment.roles[limit.vm] is Role.VICTIM:
                assert value <= own + (own * policy.most(limit.kind) - own) * policy.victim + 0.01
            assert limit.until > now
        for one in answer.told:
            assert one.kind == "not-granted"
        if moment.fails and standing:
            lost = next(iter(standing))
            grants.failed(lost, now)
            del standing[lost]
