"""Where the lab keeps things: what is worth keeping in the cache, what a run needs beside it."""

import os
from pathlib import Path

CACHE = Path(os.environ.get("HYPERVIGIL_CACHE", "/var/cache/hypervigil/lab"))
IMAGES = CACHE / "images"
SAVED = CACHE / "saved"  # RAM of booted guests
RUN = CACHE / "run"  # disks, sockets and consoles of running guests; QEMU's user must reach it
STATE = Path("/run/hypervigil-lab")  # what to undo after a crash
LOCK = Path("/run/lock/hypervigil-lab")

GUEST_FILES = Path(__file__).parent / "guest"


def make(directory: Path) -> Path:
    """Make a directory that other users may enter (QEMU runs as one) but not write."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    return directory
