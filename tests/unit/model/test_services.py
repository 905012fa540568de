"""Services are written and read in the words of people; what is none is said with the mend."""

import pytest

from hypervigil.model.services import ANYTHING, COMPANIONS, NEIGHBOUR, Services, canonical, parse, parse_one, service


@pytest.mark.parametrize(
    ("text", "ranges", "shown"),
    [
        ("tcp/443", ((service(6, 443),) * 2,), "tcp/443"),
        ("udp/5000-5999", ((service(17, 5000), service(17, 5999)),), "udp/5000-5999"),
        ("tcp", ((service(6), service(6, 65535)),), "tcp"),
        ("ip/6", ((service(6), service(6, 65535)),), "tcp"),
        ("ip/47", ((service(47), service(47, 65535)),), "ip/47"),
        ("icmp/echo", ((service(1, 8),) * 2, (service(58, 128),) * 2), "icmp/echo"),
        ("icmp/too-big", ((service(58, 2),) * 2,), "icmp6/2"),
        ("icmp4/3-5", ((service(1, 3), service(1, 5)),), "icmp4/3-5"),
        ("any", ((0, NEIGHBOUR - 1),), "any"),
    ],
)
def test_a_service_is_read_and_shown(text: str, ranges: tuple[tuple[int, int], ...], shown: str) -> None:
    assert parse(text).ranges == ranges
    assert str(parse(text)) == shown


def test_what_is_left_of_everything_is_shown_by_what_is_missing() -> None:
    assert str(ANYTHING - parse("tcp/25")) == "any but tcp/25"
    assert str(ANYTHING | COMPANIONS) == "any"
    assert str(Services()) == "nothing"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http", "is no service; write for example"),
        ("tcp/http", "is no service"),
        ("tcp/99999", "at most 65535"),
        ("tcp/9-8", "from a lower to a higher number"),
        ("tcp/123456", "is no service"),
        ("icmp/5", 'write "icmp4/5" or "icmp6/5"'),
        ("icmp4/300", "at most 255"),
        ("ip", "is no service"),
        ("TCP/80", "is no service"),
        ("tcp/80 ", "is no service"),
        ("", "is no service"),
    ],
)
def test_what_is_no_service_says_the_mend(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|must|names)") as caught:
        parse(text)
    assert says in str(caught.value)


def test_one_service_is_asked_about_at_a_time() -> None:
    assert parse_one("arp") == NEIGHBOUR
    assert parse_one("icmp/echo") == service(1, 8)
    assert parse_one("ip/47") == service(47)
    for text in ("any", "tcp", "tcp/1-2", "icmp", "ip/1-2"):
        with pytest.raises(ValueError, match="several services"):
            parse_one(text)


def test_neighbour_discovery_stands_for_arp() -> None:
    assert canonical(service(58, 135)) == canonical(service(58, 143)) == NEIGHBOUR
    assert canonical(service(58, 128)) == service(58, 128)


def test_ranges_are_kept_in_order() -> None:
    assert Services.of([(5, 9), (1, 2), (3, 4)]).ranges == ((1, 9),)
    for wrong in (((5, 4),), ((1, 2), (3, 4)), ((5, 6), (1, 2)), ((0, NEIGHBOUR + 1),)):
        with pytest.raises(ValueError, match="in order"):
            Services(wrong)
