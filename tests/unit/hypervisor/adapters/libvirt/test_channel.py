"""Where the host's end of an agent's port is: by libvirt's XML, or nowhere."""

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.guest import port
from hypervigil.hypervisor.adapters.libvirt.channel import CHANNEL, MAX_PATH, agent_channel

PATH = "/run/libvirt/qemu/channel/4-web-1/org.hypervigil.agent.0"


def domain(*channels: str) -> ET.Element:
    return ET.fromstring(f"<domain><devices>{''.join(channels)}</devices></domain>")


def channel(path: str | None = PATH, *, name: str = CHANNEL, kind: str = "unix", mode: str = "bind") -> str:
    source = "" if path is None else f"<source mode='{mode}' path='{path}'/>"
    return f"<channel type='{kind}'>{source}<target type='virtio' name='{name}' state='connected'/></channel>"


def test_host_and_guest_mean_the_same_port() -> None:
    assert CHANNEL == port.NAME


def test_it_is_found_beside_others() -> None:
    assert agent_channel(domain(channel("/other", name="org.qemu.guest_agent.0"), channel())) == PATH
    assert agent_channel(domain(channel().replace(" mode='bind'", ""))) == PATH


@pytest.mark.parametrize(
    "there",
    [
        "",
        channel(name="org.qemu.guest_agent.0"),
        channel(None),
        channel(""),
        channel("relative.sock"),
        channel("/" + "x" * MAX_PATH),
        channel(kind="pty"),
        channel(mode="connect"),
        channel().replace("type='virtio'", "type='guestfwd'"),
        "<channel type='unix'><source path='/x'/></channel>",
    ],
)
def test_what_is_none_of_ours_is_not_taken(there: str) -> None:
    assert agent_channel(domain(there)) is None


@given(st.lists(st.dictionaries(st.sampled_from(["type", "mode", "path", "name"]), st.text(max_size=200)), max_size=4))
def test_any_attributes_give_a_path_or_none(attributes: list[dict[str, str]]) -> None:
    root = ET.Element("domain")
    devices = ET.SubElement(root, "devices")
    for one in attributes:
        element = ET.SubElement(devices, "channel", {"type": "unix"})
        ET.SubElement(element, "source", one)
        ET.SubElement(element, "target", {"type": "virtio", "name": CHANNEL})
    path = agent_channel(root)
    assert path is None or (path.startswith("/") and "\0" not in path)
