"""Addresses, and whether they lie inside the provider's networks."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest import addresses, words

NETWORKS = ("10.60.0.0/24", "10.60.4.0/22", "192.0.2.7", "fd00:60::/48", "0.0.0.0/32")


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16))
def test_text_is_what_people_write(packed):
    assert ip_address(addresses.text(packed)) == ip_address(packed)


@pytest.mark.req("A241")
@given(st.sampled_from(NETWORKS), st.integers(0, 2**128 - 1), st.integers(-1, 1))
def test_zones_are_those_of_the_networks(near, offset, beside):
    """Thousands of addresses in, beside and far from the networks; NAT changes none of it: headers are compared."""
    network = ip_network(near)
    base = int(network.network_address) + beside * network.num_addresses + offset % network.num_addresses
    address = ip_address(base % 2**network.max_prefixlen) if network.version == 4 else ip_address(base % 2**128)
    if address.version != network.version:
        return
    inside = any(address in ip_network(word) for word in NETWORKS if ip_network(word).version == address.version)
    zone = addresses.Networks(list(NETWORKS)).zone(address.packed)
    assert zone == (words.ZONE_INSIDE if inside else words.ZONE_OUTSIDE)


def test_without_networks_nothing_is_known():
    assert addresses.Networks([]).zone(bytes(4)) == words.ZONE_UNKNOWN


@pytest.mark.parametrize("word", ["", "10.60.0.0/33", "10.60.0.0/-1", "x/8", "10.60.0.0/x", "10.60.0/24"])
def test_what_is_no_network_is_refused(word):
    with pytest.raises(ValueError):
        addresses.network(word)
