"""What programs and model hold of dialogues, so that it compares."""

from collections.abc import Mapping

from hypervigil.hypervisor.adapters.ebpf import kernel, layout
from hypervigil.hypervisor.adapters.ebpf.reader import Records
from hypervigil.hypervisor.reference.dialogues import Key


def held_dialogues(maps: Mapping[str, int]) -> dict[Key, layout.Dialogue]:
    """The kernel's dialogues under way, as the model holds its own."""
    found = {}
    for key in kernel.keys(maps["hv_dialogues"], layout.DialogueKey):
        there = layout.Dialogue()
        kernel.lookup(maps["hv_dialogues"], key, there)
        found[key.slot, key.own_port, key.other_port, bytes(key.address)] = there
    return found


def exact_dialogues(held: Mapping[Key, layout.Dialogue], greeters: Records) -> set[str]:
    """Each dialogue and each service that greets, without what depends on the clock."""
    under_way = {
        f"{slot} {own} {other} {address.hex()}: {bytes(one)[8:].hex()}"
        for (slot, own, other, address), one in held.items()
    }
    names = ("ended", "curt", "alike", "varied", "asked", "answered")
    return under_way | {
        f"{one['key'].tobytes().hex()}: {[int(one['greeter'][name]) for name in names]}" for one in greeters
    }
