"""An inventory that 'hypervigil network show --json' wrote, and anybody may have changed since: read without trust."""

import json
import re
from ipaddress import ip_address

import msgspec

from hypervigil.model.vm import Inventory, Nic

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class SavedError(Exception):
    """What is wrong with it, as the end of a sentence, without the mend."""


def read_saved(untrusted_bytes: bytes) -> Inventory:
    """The inventory in such an answer. ``SavedError`` if there is none, or none that can be reckoned with."""
    try:
        inventory = msgspec.convert(json.loads(untrusted_bytes)["inventory"], Inventory)
    except msgspec.ValidationError as error:
        raise SavedError(f"holds no inventory ({error})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SavedError("holds no inventory") from None
    for vm in inventory.vms:
        for nic in vm.nics:
            _check(vm.name, nic)
    return inventory


def _check(owner: str, nic: Nic) -> None:
    if not _MAC.fullmatch(nic.port):
        raise SavedError(f"gives {owner!r} a NIC with the port {nic.port!r}, which is no MAC address in lower case")
    for address in (*nic.addresses, *nic.leased):
        try:
            plain = "%" not in str(ip_address(address))
        except ValueError:
            plain = False
        if not plain:
            raise SavedError(f"gives {owner!r} {address!r}, which is no IPv4 or IPv6 address")
