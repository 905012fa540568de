"""The scenario's virtual networks on the host: bridges, and the namespace ``ext`` reached by routing."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkSpec:
    """A virtual network: its name, its IPv4 range (host on the first address) and perhaps an IPv6 range."""

    name: str
    cidr: str
    cidr6: str | None = None


class Network:
    """One bridge, on which the host has the first address and forwards for the guests.

    ``bridge`` is its device's name, ``gateway`` the host's address, ``prefix`` the prefix length.
    """

    spec: NetworkSpec
    bridge: str
    gateway: str
    prefix: int

    def address(self, index: int) -> str:
        """The IPv4 address of the guest numbered ``index`` from 0 on: the host is .1, the guests begin at .2."""
        raise NotImplementedError


class Networks:
    """All networks of one run, ``ext`` and the kernel settings they need; a context manager, undone in reverse.

    ``with Networks([NetworkSpec("net1", "10.60.0.0/24")]) as networks: networks["net1"].bridge``
    """

    def __init__(self, specs: Sequence[NetworkSpec]) -> None:
        raise NotImplementedError

    def __enter__(self) -> "Networks":
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        raise NotImplementedError

    def __getitem__(self, name: str) -> Network:
        raise NotImplementedError


def clean_all() -> list[str]:
    """Remove what any earlier run left of networks and settings, crashed ones too; what was removed, in words."""
    raise NotImplementedError
