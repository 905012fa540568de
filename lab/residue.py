"""What a run leaves on the host, told by comparing it before and after."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HostState:
    """Names of links, namespaces, domains, tables, BPF objects, pins, processes, files; values of settings."""

    things: frozenset[str]


def look() -> HostState:
    """The host now."""
    raise NotImplementedError


def residue(before: HostState) -> list[str]:
    """What is there now, belongs to the lab or to the product, and was not there before; or was set otherwise."""
    raise NotImplementedError
