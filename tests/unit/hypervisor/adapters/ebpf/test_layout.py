"""User space and the data plane mean the same by every byte that they share."""

import ctypes
import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from hypervigil.hypervisor.adapters.ebpf import layout
from hypervigil.hypervisor.adapters.ebpf.program import OBJECT

BPFTOOL = shutil.which("bpftool", path="/usr/sbin:/sbin:/usr/bin:/bin")
pytestmark = pytest.mark.skipif(BPFTOOL is None, reason="bpftool is missing: apt-get install bpftool")

MIRRORS: dict[str, type[ctypes.Structure]] = {
    said[1]: kind
    for kind in vars(layout).values()
    if isinstance(kind, type) and (said := re.match(r"``struct (\w+)``", kind.__doc__ or ""))
}
"""Each structure by the name that it says it has in the object."""


def test_every_structure_says_what_it_mirrors() -> None:
    """But a plain number, which is no structure there."""
    ours = {kind for kind in vars(layout).values() if isinstance(kind, type) and issubclass(kind, ctypes.Structure)}
    assert ours - set(MIRRORS.values()) == {layout.Number}


@pytest.fixture(scope="module")
def types() -> dict[int, dict[str, Any]]:
    """The object's own types, by number."""
    assert BPFTOOL is not None
    done = subprocess.run([BPFTOOL, "-j", "btf", "dump", "file", str(OBJECT)], check=True, capture_output=True)
    return {entry["id"]: entry for entry in json.loads(done.stdout)["types"]}


# The ring's events are no map's value, so the object does not tell their type; a tripwire that wakes the reader does.
@pytest.mark.parametrize("name", sorted(MIRRORS.keys() - {"hv_event"}))
def test_every_value_has_the_objects_fields_and_offsets(types: dict[int, dict[str, Any]], name: str) -> None:
    mirror = MIRRORS[name]
    [found] = [entry for entry in types.values() if entry["kind"] == "STRUCT" and entry["name"] == name]
    assert found["size"] == ctypes.sizeof(mirror)
    members = {member["name"]: member["bits_offset"] // 8 for member in found["members"]}
    assert members == {field[0]: getattr(mirror, field[0]).offset for field in mirror._fields_}


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("10.0.0.1", "00000000000000000000ffff0a000001"),
        ("fd00::1", "fd000000000000000000000000000001"),
        ("52:54:00:aa:bb:cc", "00000000000000000000525400aabbcc"),
        ("1:2:3:4:5:6:7:8", "00010002000300040005000600070008"),
        ("1:2:3:4:5::", "00010002000300040005000000000000"),
    ],
)
def test_addresses_come_back_as_they_went(text: str, packed: str) -> None:
    assert layout.pack_address(text).hex() == packed
    assert layout.unpack_address(layout.pack_address(text)) == text


@pytest.mark.parametrize("text", ["", "nobody", "10.0.0", "52:54:00:aa:bb:cg", "52:54:00:aa:bb"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        layout.pack_address(text)
