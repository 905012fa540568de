"""Where things lie on the host: sockets, state, pins, users. One value handed to every composition root."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

MONITOR_USER = "hypervigil"
SENSORS_USER = "hypervigil-sensors"
GATEWAY_USER = "hypervigil-gateway"
SERVICE_USERS = (MONITOR_USER, SENSORS_USER, GATEWAY_USER)

DEFAULT_RUN_DIR = Path("/run/hypervigil")
DEFAULT_STATE_DIR = Path("/var/lib/hypervigil")
DEFAULT_PIN_DIR = Path("/sys/fs/bpf/hypervigil")


@dataclass(frozen=True, slots=True)
class Layout:
    """Directories of one installation; everything else follows from them."""

    run_dir: Path = DEFAULT_RUN_DIR
    state_dir: Path = DEFAULT_STATE_DIR
    pin_dir: Path = DEFAULT_PIN_DIR

    @property
    def enforcer_socket(self) -> Path:
        """Only the monitor may speak here."""
        return self.run_dir / "enforcer.sock"

    @property
    def maps_socket(self) -> Path:
        """Only the sensors may fetch map descriptors here."""
        return self.run_dir / "maps.sock"

    @property
    def channels_socket(self) -> Path:
        """Only the gateway may fetch guests' channels here."""
        return self.run_dir / "channels.sock"

    @property
    def monitor_dir(self) -> Path:
        """The monitor's own sockets."""
        return self.run_dir / "monitor"

    @property
    def sensors_socket(self) -> Path:
        """The monitor listens here for the sensors."""
        return self.monitor_dir / "sensors.sock"

    @property
    def gateway_socket(self) -> Path:
        """The monitor listens here for the gateway."""
        return self.monitor_dir / "gateway.sock"

    @property
    def control_socket(self) -> Path:
        """The monitor listens here for the command line."""
        return self.monitor_dir / "control.sock"

    @property
    def handed_policy(self) -> Path:
        """A policy that ``hypervigil up`` hands to the monitor, which takes it away."""
        return self.monitor_dir / "policy.toml"

    @property
    def processes_file(self) -> Path:
        """Which processes run, written by the supervisor."""
        return self.run_dir / "processes.json"

    @property
    def stopping_file(self) -> Path:
        """There while an orderly stop is under way: nobody restarts anything."""
        return self.run_dir / "stopping"

    @property
    def log_dir(self) -> Path:
        """One bounded log per process."""
        return self.run_dir / "log"

    @property
    def monitor_state(self) -> Path:
        """Journal, history, last good policy: the monitor's."""
        return self.state_dir / "monitor"

    @property
    def enforcer_state(self) -> Path:
        """Signing key, copies of signed heads, what was before each limit: root's."""
        return self.state_dir / "enforcer"

    @property
    def max_nics_file(self) -> Path:
        """For how many NICs the data plane is loaded; ``hypervigil up --max-nics`` writes it, root alone."""
        return self.enforcer_state / "max-nics"

    def max_nics(self) -> int | None:
        """What is written there; ``None``: nothing."""
        try:
            return int(self.max_nics_file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    @property
    def journal(self) -> Path:
        """The journal's database."""
        return self.monitor_state / "journal.db"

    @property
    def heads(self) -> Path:
        """Signed heads of the journal, where the monitor cannot write."""
        return self.enforcer_state / "heads.jsonl"

    @property
    def public_key(self) -> Path:
        """Checks the signatures on heads."""
        return self.enforcer_state / "head.pub"

    def arguments(self) -> list[str]:
        """The options that tell a child process where things lie."""
        return [
            f"--run-dir={self.run_dir}",
            f"--state-dir={self.state_dir}",
            f"--pin-dir={self.pin_dir}",
        ]


class MissingUserError(Exception):
    """A service user does not exist; the message says how to make it."""


def user_ids(name: str) -> tuple[int, int]:
    """``(uid, gid)`` of a service user."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise MissingUserError(
            f"the user {name} does not exist; make it with: useradd --system --user-group --no-create-home "
            f"--shell /usr/sbin/nologin {name}"
        ) from None
    return entry.pw_uid, entry.pw_gid


def make_directories(layout: Layout) -> None:
    """Create the run and state directories with the owners that keep the trust zones apart (needs root)."""
    monitor_uid, monitor_gid = user_ids(MONITOR_USER)
    for path, uid, gid, mode in (
        (layout.run_dir, 0, 0, 0o755),
        (layout.log_dir, 0, 0, 0o755),
        (layout.monitor_dir, monitor_uid, monitor_gid, 0o755),
        (layout.state_dir, 0, 0, 0o755),
        (layout.monitor_state, monitor_uid, monitor_gid, 0o700),
        (layout.enforcer_state, 0, 0, 0o755),
    ):
        path.mkdir(parents=True, exist_ok=True)
        # PRIVILEGED: directories for other users are made and owned on their behalf.
        os.chown(path, uid, gid)
        path.chmod(mode)
