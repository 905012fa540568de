"""Loads the compiled data plane by libbpf, once, and pins its maps and programs."""

import ctypes
import os
from pathlib import Path

from hypervigil.hypervisor.adapters.ebpf import kernel, layout

OBJECT = Path(__file__).resolve().parents[2] / "bpf" / "hypervigil.bpf.o"
PROGRAMS = ("hv_from_vm", "hv_to_vm")
ENTRIES = {
    **dict.fromkeys(("hv_ports", "hv_counters", "hv_limits", "hv_buckets", "hv_tripwires", "hv_windows"), 1),
    "hv_peers": 64,
    "hv_dialogues": 64,
    "hv_greeters": 16,
    "hv_sources": 4,
    "hv_proven": 64,
    "hv_copies": 2,
    "hv_places": 1,
    "hv_allowances": 1,
    "hv_crossings": 1,
    "hv_members": 2,
    "hv_homes": layout.ADDRESSES + layout.LEASES,
    "hv_flows": layout.FLOW_SETS,
    "hv_holders": 24,
    "hv_locals": 1,
    "hv_leases": 1,
}
"""Maps that grow with the ports, and how many entries they have for each."""
ALONE = (
    *("hv_events", "hv_scratch", "hv_epoch", "hv_ranges", "hv_grants", "hv_services", "hv_near"),
    *("hv_routers", "hv_secret"),
)
MAPS = (*ENTRIES, *ALONE)
DEFAULT_PORTS = 1024
LARGER = "have room for more with 'hypervigil off' and then 'hypervigil up --max-nics N'"


class DataPlaneError(Exception):
    """One sentence: what the data plane could not do and the mend."""


def _libbpf() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        raise DataPlaneError("libbpf.so.1 is missing: apt-get install libbpf1") from None
    library.bpf_object__open_file.restype = ctypes.c_void_p
    for name in ("find_map_by_name", "find_program_by_name"):
        function = getattr(library, f"bpf_object__{name}")
        function.restype = ctypes.c_void_p
        function.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("bpf_object__load", "bpf_object__close", "bpf_map__fd", "bpf_program__fd"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.bpf_map__set_max_entries.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    return library


def load(pin_dir: Path, *, max_ports: int) -> None:
    """Load the object and pin everything under ``pin_dir``; all or nothing."""
    if not OBJECT.exists():
        raise DataPlaneError(f"the compiled data plane {OBJECT} is missing: build it with scripts/build-bpf")
    libbpf = _libbpf()
    kept_messages = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: 0)
    libbpf.libbpf_set_print(kept_messages)
    handle = libbpf.bpf_object__open_file(os.fsencode(OBJECT), None)
    if not handle:
        raise DataPlaneError(f"{OBJECT} cannot be opened: build it again with scripts/build-bpf")
    try:
        _load(libbpf, handle, pin_dir, max_ports)
    except OSError as error:
        raise DataPlaneError(
            f"cannot pin under {pin_dir}: {error.strerror}; mount a BPF file system (mount -t bpf bpf /sys/fs/bpf)"
        ) from error
    finally:
        libbpf.bpf_object__close(handle)


def _load(libbpf: ctypes.CDLL, handle: int, pin_dir: Path, max_ports: int) -> None:
    for name, factor in ENTRIES.items():
        entries = max_ports * factor
        libbpf.bpf_map__set_max_entries(libbpf.bpf_object__find_map_by_name(handle, name.encode()), entries)
    # PRIVILEGED: the kernel takes programs from root only.
    status = libbpf.bpf_object__load(handle)
    if status:
        raise DataPlaneError(f"the kernel refused the data plane ({os.strerror(-status)}): it needs 6.1 or newer")
    secret = libbpf.bpf_map__fd(libbpf.bpf_object__find_map_by_name(handle, b"hv_secret"))
    kernel.update(secret, ctypes.c_uint32(0), layout.Secret.from_buffer_copy(os.urandom(ctypes.sizeof(layout.Secret))))
    made: list[Path] = []
    try:
        pin_dir.mkdir(parents=True, exist_ok=True)
        for name in MAPS:
            _pin(libbpf.bpf_map__fd(libbpf.bpf_object__find_map_by_name(handle, name.encode())), pin_dir / name, made)
        for name in PROGRAMS:
            program = libbpf.bpf_object__find_program_by_name(handle, name.encode())
            _pin(libbpf.bpf_program__fd(program), pin_dir / name, made)
        # The ABI's number is a name in the directory, since bpffs holds no files; it is made last, so it says "whole".
        (pin_dir / f"abi-{layout.ABI}").mkdir(exist_ok=True)
    except OSError:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _pin(fd: int, path: Path, made: list[Path]) -> None:
    path.unlink(missing_ok=True)
    kernel.pin(fd, path)
    made.append(path)
