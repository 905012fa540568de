"""One good message of each kind that passes between a guest and the host."""

from hypervigil.model.guest import GuestMetric, Need, SpecialRequest, Suspect, Zone
from hypervigil.model.traffic import Direction
from hypervigil.wire import guest

HEAD = (1, 77_000_000_001, 5, 123_456)
VALUES = tuple(range(len(GuestMetric)))
SAMPLING = (guest.Sampling(160, 50, 90, 64), guest.Sampling(1, 12))
TALKERS = (guest.Talker(Direction.OUT, "10.60.0.2", 12), guest.Talker(Direction.IN, "fd00::2", 3))
FLOW = guest.Flow(Direction.OUT, 6, "10.60.0.1", 40000, "10.60.0.2", 80, Zone.INSIDE, 10, 8, 5000, 400, 1)
TRANSMITTER = guest.Transmitter(412, "nginx", 5000, 3, 0)

FROM_GUEST: tuple[guest.FromGuest, ...] = (
    guest.Hello(*HEAD, "0.1.0", "4cdbd27c-51d5-4b43-a0f5-ccb4b2b1cbb5", 1, 0, 2, 196_608, ("headers",)),
    guest.Report1(*HEAD, 1, 0, 3, 1000, VALUES, SAMPLING, TALKERS),
    guest.Report2(
        *HEAD,
        2,
        1,
        3,
        1000,
        VALUES,
        SAMPLING,
        TALKERS,
        (FLOW, FLOW),
        2,
        (TRANSMITTER,),
        (guest.Device("vda", 3, 4096),),
    ),
    guest.LevelChanged(*HEAD, 1, 2, "breach", Suspect.ATTACKER, (guest.Breach(GuestMetric.OUT_SYN, 900, 40),)),
    guest.Lost(*HEAD, 2, 60, 100_000),
    guest.Special(*HEAD, 3, SpecialRequest.BALLOON, "", -4096),
    guest.Wanted(*HEAD, 4, Need.MEMORY, 196_608, 65_536, 12),
    guest.Flows(*HEAD, 9, (FLOW,), 1),
    guest.Top(*HEAD, 10, TALKERS, (TRANSMITTER,)),
    guest.Load(*HEAD, 11, 900, 0, 400, -1, (1, 0, 0), (12, 0, 0)),
    guest.Declined(*HEAD, 12, "unknown"),
)
TO_GUEST: tuple[guest.ToGuest, ...] = (
    guest.Ask(1, "flows", 100_000),
    guest.Acknowledge(4),
    guest.SetLevel(1),
    guest.BriefHistory(
        3, (guest.Usual(GuestMetric.OUT_SYN, 20, 5), guest.Usual(GuestMetric.CPU, 3000, 400)), (80, 443)
    ),
    guest.ProviderNetworks(("10.60.0.0/24", "fd00::/64")),
)
