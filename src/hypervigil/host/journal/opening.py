"""The journal's file before and while it is open: whether it may be read, and what SQLite says of it, for people."""

import os
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.exc import DBAPIError

from hypervigil.host.journal.records import JournalError

BUSY_TIMEOUT_S = 0.5
RESERVE_BYTES = 512 * 1024


def need_journal(path: Path) -> None:
    """``JournalError`` with the mend unless there is a journal that may be read.

    The file is not opened for this: to close it again would end the locks that this process has on it.
    """
    try:
        there = path.stat()
        readable = os.access(path, os.R_OK, effective_ids=True)
    except (FileNotFoundError, NotADirectoryError):
        raise JournalError(
            f"there is no journal at {path}: start Hypervigil here, or name the right state directory"
        ) from None
    except PermissionError:
        readable = False
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read: {error.strerror}; name the right file") from error
    if not readable:
        raise JournalError(f"you may not read the journal {path}: run this as root")
    if not stat.S_ISREG(there.st_mode):
        raise JournalError(f"{path} is no regular file, and so no journal: name the journal's own file")


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection of the standard library's; SQLite's own errors pass through."""
    mode = "ro" if read_only else "rwc"
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)


def sentence(path: Path, error: DBAPIError | sqlite3.Error) -> str:
    """What SQLite says, for people."""
    reason = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(reason, "sqlite_errorname", "")
    match name.split("_")[1] if "_" in name else "":
        case "FULL" | "IOERR" | "CANTOPEN" if "_FULL" in name or _no_space(path):
            return f"no space is left for the journal {path}: free some on its file system"
        case "BUSY" | "LOCKED":
            return f"another process holds the journal {path} locked: close it (a sqlite3 shell?)"
        case "CORRUPT" | "NOTADB":
            return (
                f"the journal {path} is damaged: keep it for inspection by moving it aside with its -wal and -shm files"
            )
        case "READONLY" | "PERM" | "CANTOPEN" | "AUTH":
            return f"the journal {path} cannot be opened: check that it is there and that you may use it ({reason})"
        case "IOERR":
            return f"the disk failed under the journal {path}: check the disk ({reason})"
        case _:
            return f"the journal {path} cannot be used: {reason}"


def _no_space(path: Path) -> bool:
    try:
        there = os.statvfs(path.parent)
    except OSError:
        return False
    return there.f_bavail * there.f_frsize < RESERVE_BYTES or there.f_files > 0 == there.f_favail
