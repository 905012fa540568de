"""Histories as bytes: what the monitor keeps on disk and what ``hypervigil history export`` gives."""

import io
import zipfile

import numpy as np

from hypervigil.host.hsem.history import Remembered
from hypervigil.model.ids import VmId


def encode(known: Remembered) -> bytes:
    """NumPy's npz."""
    buffer = io.BytesIO()
    vms = np.array(known.vms, dtype="U64")
    np.savez_compressed(buffer, vms=vms, histogram=known.histogram, samples=known.samples)
    return buffer.getvalue()


def decode(untrusted_bytes: bytes) -> Remembered:
    """What ``encode`` gave; ``ValueError`` otherwise."""
    try:
        with np.load(io.BytesIO(untrusted_bytes), allow_pickle=False) as stored:
            vms = tuple(VmId(str(vm)) for vm in stored["vms"])
            return Remembered(vms, stored["histogram"].astype(np.float32), stored["samples"].astype(np.float32))
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        zipfile.BadZipFile,
        MemoryError,
    ) as error:
        raise ValueError(f"it is no history ({type(error).__name__})") from error
