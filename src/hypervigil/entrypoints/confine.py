"""What each service gives up once it is set up: privileges that no later bug can win back."""

import contextlib
import ctypes
import resource

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def confine(*, open_files: int = 4096) -> None:
    """No new privileges ever, no core dumps (they could hold what sockets carried), a bounded number of open files."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
