"""The enforcer's process: the only one with root. It also starts the supervisor again should that be killed."""

import contextlib
import logging
import os
import select
import sys
import threading
import time

from hypervigil.entrypoints.confine import confine
from hypervigil.entrypoints.layout import GATEWAY_USER, MONITOR_USER, SENSORS_USER, Layout, user_ids
from hypervigil.entrypoints.options import layout_alone
from hypervigil.entrypoints.processes import read_processes, start_detached
from hypervigil.hypervisor.adapters.ebpf.program import DEFAULT_PORTS
from hypervigil.hypervisor.enforcer.process import EnforcerConfig, run

log = logging.getLogger(__name__)


def _watch_supervisor(layout: Layout) -> None:
    """Start a supervisor whenever ours is gone, unless an orderly stop is under way.

    A record without this process is another set's, perhaps of one long dead while systemd runs this one, or ours is
    about to be written.
    """
    while True:
        recorded = read_processes(layout)
        if recorded is None or recorded.services.get("enforcer") != os.getpid():
            time.sleep(0.5)
            continue
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(recorded.supervisor)
            try:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll()
            finally:
                os.close(pidfd)
        if layout.stopping_file.exists() or not layout.processes_file.exists():
            return
        log.warning("supervisor.gone pid=%d", recorded.supervisor)
        start_detached(layout, recorded.monitor_arguments)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            now = read_processes(layout)
            if now is not None and now.supervisor != recorded.supervisor:
                break
            time.sleep(0.05)


def main(argv: list[str] | None = None) -> None:
    """``python -m hypervigil.entrypoints.enforcer --run-dir=… --state-dir=… --pin-dir=…``."""
    layout = layout_alone(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    confine(open_files=16384)
    threading.Thread(target=_watch_supervisor, args=(layout,), daemon=True, name="supervisor-watch").start()
    run(
        EnforcerConfig(
            run_dir=layout.run_dir,
            state_dir=layout.enforcer_state,
            pin_dir=layout.pin_dir,
            monitor_uid=user_ids(MONITOR_USER)[0],
            sensors_uid=user_ids(SENSORS_USER)[0],
            gateway_uid=user_ids(GATEWAY_USER)[0],
            max_ports=layout.max_nics() or DEFAULT_PORTS,
        )
    )


if __name__ == "__main__":
    main()
