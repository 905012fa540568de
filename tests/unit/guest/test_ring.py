"""What is kept while nobody listens: the newest, bounded, and what was lost is known."""

from hypervigil.guest.ring import OCTETS, REPORTS, Ring


def test_reports_come_out_in_the_order_they_went_in():
    ring = Ring()
    for at_ms in range(3):
        ring.keep(at_ms, b"%d" % at_ms)
    out = []
    while (oldest := ring.oldest()) is not None:
        out.append(oldest)
        ring.sent()
    assert out == [b"0", b"1", b"2"]
    assert ring.take_lost() == (0, 0)


def test_the_oldest_go_and_are_counted():
    ring = Ring()
    for at_ms in range(REPORTS + 40):
        ring.keep(at_ms, b"x")
    assert len(ring) == REPORTS
    assert ring.take_lost() == (40, 0)
    ring.keep(999, b"x")
    assert ring.take_lost() == (1, 40)


def test_it_is_bounded_in_octets():
    ring = Ring()
    for at_ms in range(100):
        ring.keep(at_ms, bytes(10_000))
    assert len(ring) == OCTETS // 10_000
