"""``hypervigil off``: take away everything that was ever put in force, with or without a process of ours alive."""

import contextlib
from pathlib import Path

from hypervigil.hypervisor.adapters.ebpf.dataplane import remove_all
from hypervigil.hypervisor.adapters.libvirt.limits import DomainError, DomainGoneError, DomainLimits
from hypervigil.hypervisor.adapters.nftables.guard import Guard, GuardError
from hypervigil.hypervisor.adapters.nftables.routed import RoutedGuard
from hypervigil.hypervisor.adapters.routes import RouteTable
from hypervigil.hypervisor.enforcer import state as states


def undo_all(run_dir: Path, state_dir: Path, pin_dir: Path) -> list[str]:
    """Put back what domains had, remove guard, programs, maps, links and sockets; one sentence for each thing done."""
    done: list[str] = []
    left: list[states.Original] = []
    state = states.load(state_dir)
    domains = DomainLimits()
    for original in state.originals:
        try:
            domains.restore(original.vm, original.kind, original.was)
            with contextlib.suppress(DomainError):  # it was not written, or stays: it says what is so now
                domains.mark(original.vm, {o.kind: o.was for o in left if o.vm == original.vm})
            done.append(f"put back {original.kind} of {original.vm}")
        except DomainGoneError:
            continue
        except DomainError as error:
            left.append(original)
            done.append(f"could NOT put back {original.kind} of {original.vm}: {error}")
    try:
        if any([Guard().remove(), RoutedGuard().remove()]):
            done.append("removed the guard")
    except GuardError as error:
        done.append(f"could NOT remove the guard: {error}")
    try:
        if RouteTable().remove():
            done.append("removed routes to VMs")
    except OSError as error:
        done.append(f"could NOT remove routes to VMs: {error}")
    if remove_all(pin_dir):
        done.append(f"removed programs, maps and {len(state.ports)} bindings")
    for name in ("enforcer.sock", "maps.sock", "channels.sock"):
        (run_dir / name).unlink(missing_ok=True)
    if left:
        states.save(state_dir, states.State(state.boot_id, originals=left))
    else:
        states.remove(state_dir)
    return done
