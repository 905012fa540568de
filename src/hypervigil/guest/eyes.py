"""One look at the guest: the kernel's files, sockets and headers together. Thin; what it finds is judged elsewhere."""

from __future__ import annotations

from hypervigil.guest import proc, sources, words
from hypervigil.guest.snapshot import Columns, Snapshot
from hypervigil.guest.sockets import ESTABLISHED, SYN_RECV, SYN_SENT
from hypervigil.guest.vsem import frames
from hypervigil.guest.vsem.recorder import Recorder, Second
from hypervigil.guest.vsem.special import Setup
from hypervigil.guest.vsem.transmitters import Transmitters

_DUMP_AGAIN_MS = 5000


class Eyes:
    """Looks when it is told to, and remembers what it needs for the next look."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.transmitters = Transmitters()
        self._files = sources.Files()
        self._dump = sources.SocketDump()
        self._headers = (sources.Headers(words.OUT), sources.Headers(words.IN))
        self._processes = sources.Processes()
        self._nics = sources.Nics()
        self._columns = Columns()
        self._failed: int | None = None
        self._timed_out: int | None = None
        self._tcp: list[int | None] | None = None
        self._dumped_ms = 0
        self._states: dict[int, int] = {}
        self._packets: list[int | None] = [None, None]
        self._ends: frozenset[tuple[bytes, int, bytes, int]] | None = None

    def look(self, at_ms: int, *, detailed: bool) -> tuple[Snapshot, Second]:
        """The counters now, and what was seen of the traffic since the last look."""
        files = self._files.read()
        nics = proc.nics(files["net/dev"])
        self._nics.update(frozenset(nics))
        found = Snapshot(at_ms, files, nics, self._nics.real, self._columns)
        self._look_at_timeouts(found)
        self._look_at_sockets(found, detailed)
        for way, headers in enumerate(self._headers):
            self._look_at_headers(way, headers.read(self._nics.indices), found)
        self.recorder.forget(at_ms)
        return found, self.recorder.take_second()

    def _look_at_headers(self, way: int, sample: sources.Sample, found: Snapshot) -> None:
        now = found.counts.get((words.OUT_PACKETS, words.IN_PACKETS)[way])
        if way == words.OUT and now is not None:
            now += found.counts.get(words.OUT_FAULTS) or 0
        before, self._packets[way] = self._packets[way], now
        total = sample.total(None if now is None or before is None or now < before else now - before)
        second = self.recorder.second
        second.read[way] = len(sample.frames)
        second.passed[way], second.one_in[way] = sample.seen, sample.weight
        second.weights[way] = max(1, total // max(1, len(sample.frames)))
        for data, weight in zip(sample.frames, sample.weights(total)):
            frame = frames.read(way, data)
            if frame is not None:
                self.recorder.frame(way, frame, weight, found.at_ms)

    def _look_at_timeouts(self, found: Snapshot) -> None:
        """The file is long; tries that ran out of time are among those that failed."""
        failed = found.counts.get(words.FAILED)
        if failed != self._failed or self._timed_out is None:
            self._failed = failed
            self._timed_out = self._columns.tcp_ext.read(self._files.one("net/netstat"))[0]
        found.counts[words.TIMED_OUT] = self._timed_out

    def _look_at_sockets(self, found: Snapshot, detailed: bool) -> None:
        """A dump walks the kernel's whole table; where no segment passed, the last one is still right."""
        if found.tcp == self._tcp and not detailed and found.at_ms - self._dumped_ms < _DUMP_AGAIN_MS:
            found.states.update(self._states)
            return
        sockets = self._dump.read(with_info=detailed)
        self._states = {}
        if sockets is None:
            return
        self._tcp, self._dumped_ms = found.tcp, found.at_ms
        self._states[words.PENDING] = sockets.states[SYN_SENT]
        self._states[words.HALF_OPEN] = sockets.states[SYN_RECV]
        self._states[words.CONNECTIONS] = sockets.states[ESTABLISHED]
        found.states.update(self._states)
        known, self._ends = self._ends, frozenset([one.ends for one in sockets.connections])
        if known is not None:
            for one in sockets.connections:
                if one.ends not in known:
                    self.recorder.connection(*one.ends, found.at_ms)
        if detailed:
            self.transmitters.see(sockets.connections)

    def setup(self, clock_ms: int, *, detailed: bool) -> Setup:
        """What the guest loads and allows now; in detail also who owns sockets."""
        raw = sources.raw_sockets()
        if detailed:
            self.transmitters.found(*self._processes.look(raw or frozenset()))
        return sources.setup(sorted(self._nics.real), clock_ms, raw)

    def blind(self) -> list[str]:
        """What cannot be seen here, as words."""
        missing = [name.replace("/", "-") for name in self._files.missing]
        missing += ["sockets"] if self._dump.missing else []
        return missing + (["headers"] if self._headers[words.OUT].missing else [])

    def close(self) -> None:
        """See no more."""
        self._files.close()
        self._dump.close()
        for headers in self._headers:
            headers.close()

    @staticmethod
    def boot_id() -> str:
        """Which run of this guest it is."""
        return (sources.read_file("/proc/sys/kernel/random/boot_id") or b"").decode("ascii", "replace").strip()
