"""The monitor's folder in the run directory, made anew before a start and after the end: a taken-over one may plant."""

import contextlib
import os
import secrets
import shutil
import stat

from hypervigil.entrypoints.layout import Layout


def renew_monitor_dir(layout: Layout, *, keep_policy: bool) -> None:
    """An empty folder in place of whatever lies there, but for a policy handed over and not yet taken, if it is kept.

    Only for when no monitor runs, since it takes the sockets away. The run directory is root's, so the folder can be
    moved aside whatever is in it; no link in it is followed. ``OSError`` where the new one cannot be made.
    """
    try:
        before = layout.monitor_dir.lstat()
    except FileNotFoundError:
        return
    aside = layout.run_dir / f".monitor.{secrets.token_hex(8)}"
    layout.monitor_dir.rename(aside)
    # PRIVILEGED: nobody but root changes it from here on, so that what is looked at is what is moved or removed.
    os.chown(aside, 0, 0, follow_symlinks=False)
    layout.monitor_dir.mkdir()
    layout.monitor_dir.chmod(0o755)
    # PRIVILEGED: the new folder is the monitor's as the old one was.
    os.chown(layout.monitor_dir, before.st_uid, before.st_gid)
    kept = aside / layout.handed_policy.name
    with contextlib.suppress(OSError):
        if keep_policy and stat.S_ISREG(kept.lstat().st_mode):
            kept.rename(layout.handed_policy)
    # Folders in folders may be deeper than can be removed here: they lie where they are in nobody's way.
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(aside)
