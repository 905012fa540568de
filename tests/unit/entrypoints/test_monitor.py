"""The monitor's whole process but for its rights, with the real enforcer's loop at the other end of its socket."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hypervigil.entrypoints import monitor as process
from hypervigil.entrypoints.layout import Layout
from hypervigil.host.journal import Entry, Journal, Kind
from hypervigil.host.journal.records import PolicyChange
from hypervigil.host.journal.verify import read_heads, verify
from hypervigil.host.monitor import signing
from hypervigil.host.policyfile import PolicyStore
from hypervigil.model.ids import CaseId, VmId
from hypervigil.model.policy import Policy
from hypervigil.model.report import EnterLevel2
from hypervigil.model.status import Evidence, Origin
from hypervigil.wire import control
from tests.unit.hypervisor.enforcer.test_process import Rig, rig

__all__ = ["rig"]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Where a monitor finds what it needs, whoever runs the tests."""
    found = Layout(tmp_path / "run", tmp_path / "state", tmp_path / "pins")
    for directory in (found.monitor_dir, found.monitor_state):
        directory.mkdir(parents=True)
    monkeypatch.setattr(process, "user_ids", lambda _: (os.getuid(), os.getgid()))
    return found


async def until(what: str, look: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def test_what_an_agent_told_of_an_open_case_is_known_again_after_a_restart(layout: Layout) -> None:
    vm, case = VmId("a"), CaseId("c1")

    def fact(kind: str, text: str) -> Evidence:
        return Evidence(vm, kind, Origin.GUEST_REPORTED, process.now(), 1.0, None, "", text)

    told = [(fact("told-top", "first"), case), (fact("told-top", "last"), case), (fact("told-load", "else"), None)]
    opened = EnterLevel2(vm, case, process.now(), ())
    with Journal.open(layout.journal) as journal:
        journal.append_many(
            [
                Entry(Kind.LEVEL, opened, opened.at, time.time(), case, vm),
                *[Entry(Kind.GUEST, one, one.at, time.time(), of, vm) for one, of in told],
            ]
        )
    made = process.Monitor(layout, Policy(), PolicyStore(layout.monitor_state))
    made.recover()
    assert {kind: one.text for kind, one in made.conductor.ledger.cases[case].told.items()} == {"told-top": "last"}
    assert made.conductor.inquiries.case(vm) == case
    made.journal.close()


def test_a_policy_that_a_start_took_from_a_file_is_on_record_once(layout: Layout) -> None:
    store = PolicyStore(layout.monitor_state)
    texts = ["", 'mode = "enforce"\n', 'mode = "enforce"\n', "# another\n"]
    for text in texts:
        store.apply(text)
        made = process.Monitor(layout, Policy(), store)
        made.recover()
        made.conductor.commit()
        made.journal.close()
    with Journal.open(layout.journal, read_only=True) as journal:
        found = [record.read(PolicyChange) for record in journal.records(kinds=[Kind.POLICY])]
    assert [one.text for one in found] == ["", 'mode = "enforce"\n', "# another\n"]
    assert {one.by for one in found} == {"the monitor's start"}


def test_the_process_has_its_journals_head_signed_again_and_again_and_when_it_is_told_to(
    rig: Rig, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOOK_S", 0.02)
    monkeypatch.setattr(signing, "SIGN_S", 0.3)
    heads, key = tmp_path / "heads.jsonl", tmp_path / "head.pub"

    async def play() -> None:
        server = await asyncio.start_unix_server(rig.enforcer.talk, path=str(layout.enforcer_socket))
        made = process.Monitor(layout, Policy(), PolicyStore(layout.monitor_state))
        running = asyncio.create_task(made.run())
        await until("four heads", lambda: running.done() or (heads.exists() and len(read_heads(heads)) >= 4))
        assert not running.done(), running.exception()
        times = [head.wall_at for head in read_heads(heads)]
        assert times[3] - times[0] >= 0.8, "each time that it is due, and not all at once"
        monkeypatch.setattr(signing, "SIGN_S", 3600.0)
        await until("all that was asked is answered", lambda: made._signing._asked is None)
        before = made.journal.head()[0]
        await made._answer(control.SignNow())
        assert made._signing.through >= before
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        server.close()

    asyncio.run(play())
    public = load_pem_public_key(key.read_bytes())
    found = verify(layout.journal, read_heads(heads), public)  # type: ignore[arg-type]
    assert found.ok, found.problem
    with Journal.open(layout.journal, read_only=True) as journal:
        assert len(list(journal.records(kinds=[Kind.SIGNATURE]))) == len(read_heads(heads))
