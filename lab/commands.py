"""Programs of the host, run with an argument list and a deadline."""

import subprocess
from collections.abc import Sequence

from lab.errors import LabError


def call(argv: Sequence[str], *, stdin: str | None = None, timeout_s: float = 30.0) -> str:
    """Run a program and return what it printed; LabError with its last words when it fails."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed: run 'make lab' as root") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"'{' '.join(argv)}' did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip()[-400:]
        raise LabError(f"'{' '.join(argv)}' failed: {last or f'exit status {done.returncode}'}")
    return done.stdout


def works(argv: Sequence[str], *, timeout_s: float = 30.0) -> bool:
    """Whether a program ends with success; for undoing what may be undone already."""
    try:
        call(argv, timeout_s=timeout_s)
    except LabError:
        return False
    return True
