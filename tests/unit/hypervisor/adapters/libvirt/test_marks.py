"""Marks in a domain of libvirt's test driver, as libvirt keeps them."""

from collections.abc import Iterator

import libvirt
import pytest

from hypervigil.hypervisor.adapters.libvirt import marks
from hypervigil.model.limits import LimitKind

CPU, DISK = LimitKind.CPU, LimitKind.BLOCK_OCTETS
WAS = {CPU: {"vcpu_quota": -1, "vcpu_period": 100_000, "cpu_shares": 1024}, DISK: {"vda": 0, "vdb": 4_000_000}}


@pytest.fixture
def domain() -> Iterator[libvirt.virDomain]:
    connection = libvirt.open("test:///default")
    yield connection.lookupByName("test")
    connection.close()


def test_what_is_written_is_read_and_goes_with_the_definition(domain: libvirt.virDomain) -> None:
    assert marks.read(domain) == {}
    marks.write(domain, WAS)
    assert marks.read(domain) == WAS
    assert "urn:hypervigil:before-limits:1" in domain.XMLDesc()
    marks.write(domain, {CPU: WAS[CPU]})
    assert marks.read(domain) == {CPU: WAS[CPU]}
    marks.write(domain, {})
    assert marks.read(domain) == {}
    assert "hypervigil" not in domain.XMLDesc()
    marks.write(domain, {})
    marks.write(domain, {LimitKind.PAUSE: {"paused": 0}})
    assert marks.read(domain) == {}, "nobody is resumed by a mark"


@pytest.mark.parametrize(
    "text",
    [
        "<before-limits/>",
        "<before-limits><was kind='sleep' name='a' value='1'/></before-limits>",
        "<before-limits><was kind='cpu' name='' value='1'/></before-limits>",
        "<before-limits><was kind='cpu' name='a' value='one'/></before-limits>",
        "<before-limits><was kind='cpu' name='a'/></before-limits>",
        "<before-limits><was kind='cpu' name='a' value='--1'/></before-limits>",
        "<before-limits><was kind='cpu' name='vcpu_quota' value='-1'/></before-limits>",
        "<before-limits><was kind='memory' name='x' value='1'/></before-limits>",
        "<before-limits><was kind='memory' name='kib' value='-5'/></before-limits>",
        "<before-limits><was kind='block-octets' name='vda' value='-1'/></before-limits>",
        "<before-limits><was kind='block-octets' name='../vda' value='1'/></before-limits>",
        "<before-limits><was kind='pause' name='paused' value='0'/></before-limits>",
        f"<before-limits><was kind='cpu' name='a' value='{1 << 60}'/></before-limits>",
    ],
)
def test_what_cannot_be_is_left_out(domain: libvirt.virDomain, text: str) -> None:
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "hypervigil", "urn:hypervigil:before-limits:1", live)
    assert marks.read(domain) == {}
