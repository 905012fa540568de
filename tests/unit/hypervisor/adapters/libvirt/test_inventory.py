"""Domain XML: parse or one clear error; what is not there yet is awaited; an event is never missed for good."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.hypervisor.adapters.libvirt.connection import LibvirtUnreachableError, connect
from hypervigil.hypervisor.adapters.libvirt.inventory import (
    NAMESPACE,
    Domain,
    DomainNic,
    DomainReader,
    DomainXmlError,
    parse_domain,
    place,
)
from hypervigil.hypervisor.adapters.links import Link
from hypervigil.model.ids import PortId, VmId
from hypervigil.model.vm import Nic

UUID = "d305389d-a6a9-4eda-9ac7-c6789abb0b92"
MAC = "52:54:00:99:00:01"


def xml(nics: str = "", *, head: str = "", vcpu: str = "<vcpu placement='static'>2</vcpu>", kind: str = "qemu") -> str:
    return (
        f"<domain type='{kind}' id='4'><name>web-1</name><uuid>{UUID}</uuid>{head}<memory unit='MiB'>24</memory>{vcpu}"
        f"<os><type>hvm</type></os><devices>{nics}</devices></domain>"
    )


def interface(more: str = "", *, mac: str = MAC, kind: str = "bridge") -> str:
    return (
        f"<interface type='{kind}'><mac address='{mac}'/><source bridge='br0'/><target dev='vnet7'/>{more}</interface>"
    )


def metadata(addresses: str, *, mac: str = MAC) -> str:
    return f"<metadata><hv:addresses xmlns:hv='{NAMESPACE}' mac='{mac}'>{addresses}</hv:addresses></metadata>"


def test_a_domain_with_everything() -> None:
    named = (("IP", "10.0.0.2"), ("IPV6", "FD00::2"), ("CTRL_IP_LEARNING", "dhcp"))
    listed = "".join(f"<parameter name='{name}' value='{value}'/>" for name, value in named)
    parameters = f"<filterref filter='clean-traffic'>{listed}</filterref>"
    ours = metadata("10.0.0.3\n fd00::2", mac=MAC.upper())
    domain = parse_domain(xml(interface(parameters, mac=MAC.upper()), head=ours, vcpu="<vcpu current='3'>8</vcpu>"))
    nic = DomainNic(PortId(MAC), "bridge", "vnet7", "br0", ("10.0.0.2", "fd00::2", "10.0.0.3"))
    assert domain == Domain(VmId(UUID), "web-1", 3, 24576, (nic,))


def test_a_nic_that_no_bridge_carries() -> None:
    nic = f"<interface type='ethernet'><mac address='{MAC}'/><target dev='vnet7' managed='yes'/></interface>"
    domain = parse_domain(xml(nic, head=metadata("10.0.0.3")))
    assert domain.nics == (DomainNic(PortId(MAC), "ethernet", "vnet7", None, ("10.0.0.3",)),)
    vm, missing = place(domain, {"vnet7": Link(9, "vnet7", None)}, paused=False)
    assert vm.nics == (Nic(PortId(MAC), "vnet7", 9, None, ("10.0.0.3",)),)
    assert missing == ()


def test_metadata_of_another_nic_binds_nothing_here() -> None:
    ours = metadata("10.0.0.3", mac="52:54:00:99:00:02")
    assert parse_domain(xml(interface(), head=ours)).nics[0].addresses == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be parsed"),
        ("<domain/>", "no name or no UUID"),
        ("<network><name>a</name><uuid>" + UUID + "</uuid></network>", "no name or no UUID"),
        ('<!DOCTYPE d [<!ENTITY a "b">]>' + xml(), "document type"),
        (xml().replace("web-1", "a\x85b"), "no name or no UUID"),
        (xml(vcpu=""), "<vcpu>"),
        (xml(vcpu="<vcpu>-1</vcpu>"), "<vcpu>"),
        (xml().replace("'MiB'", "'parsec'"), "<memory>"),
        (xml("<interface type='user'/>"), "no MAC"),
        (xml(interface("<filterref><parameter name='IP' value='10.0.0.300'/></filterref>")), "no IP address"),
    ],
)
def test_what_libvirt_would_not_write_is_one_clear_error(text: str, says: str) -> None:
    with pytest.raises(DomainXmlError, match=says):
        parse_domain(text)


@given(st.text())
def test_any_text_parses_or_is_a_domain_xml_error(text: str) -> None:
    with pytest.raises(DomainXmlError):
        parse_domain(text)


_WHOLE = xml(
    interface("<filterref><parameter name='IP' value='10.0.0.2'/></filterref>") + interface(mac="52:54:00:99:00:02"),
    head=metadata("10.0.0.3"),
)


@given(st.lists(st.tuples(st.integers(0, len(_WHOLE)), st.integers(0, 12), st.text(max_size=6)), max_size=6))
def test_a_mutilated_domain_parses_or_is_a_domain_xml_error(cuts: list[tuple[int, int, str]]) -> None:
    text = _WHOLE
    for at, length, put in cuts:
        text = text[:at] + put + text[at + length :]
    try:
        domain = parse_domain(text)
    except DomainXmlError:
        return
    assert domain.vcpus > 0
    assert domain.memory_kib > 0


def test_the_kernels_word_on_the_bridge_goes_first_and_missing_devices_are_told() -> None:
    domain = parse_domain(xml(interface() + interface(mac="52:54:00:99:00:02").replace("vnet7", "vnet8")))
    vm, missing = place(domain, {"vnet7": Link(12, "vnet7", "br9")}, paused=True)
    assert vm.nics == (Nic(PortId(MAC), "vnet7", 12, "br9"),)
    assert vm.paused
    assert [nic.device for nic in missing] == ["vnet8"]
    assert place(domain, {"vnet7": Link(12, "vnet7", None)}, paused=False)[0].nics[0].bridge == "br0"


@pytest.fixture
def node(tmp_path: Path) -> str:
    path = tmp_path / "node.xml"
    # libvirt drops a target named like its own, so it gets another one
    path.write_text(f"<node>{xml(interface(), kind='test')}</node>".replace("vnet7", "hvs-x0"))
    return f"test://{path}"


def test_a_reader_follows_what_runs(node: str) -> None:
    wakes: list[None] = []
    connection = connect(node)
    with DomainReader(connection, lambda: wakes.append(None)) as reader:
        first = reader.look({})
        assert first.expects_more
        assert "no device for its NIC" in first.unseen[0]
        look = reader.look({"hvs-x0": Link(12, "hvs-x0", "br0")})
        assert not look.expects_more
        assert look.unseen == ()
        [vm] = look.inventory.vms
        assert (vm.name, vm.nics[0].ifindex, vm.paused) == ("web-1", 12, False)


def test_no_libvirt_is_one_sentence_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(LibvirtUnreachableError, match="start it with 'systemctl start libvirtd'"):
        connect(f"qemu+unix:///system?socket={tmp_path}/none")
