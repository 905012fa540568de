"""Channels: opened by root at the place that libvirt names and nowhere else, and handed to the gateway alone."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervigil.hypervisor.channels import ChannelError, fetch, hand_over, open_channel, parse_vm
from hypervigil.model.ids import VmId

VM = VmId("d305389d-a6a9-4eda-9ac7-c6789abb0b92")


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "agent.sock"))
        server.listen(4)
        server.settimeout(5)
        yield server


def place(guest: socket.socket) -> Path:
    return Path(guest.getsockname())


def test_a_socket_is_opened_and_never_blocks(guest: socket.socket) -> None:
    with open_channel(str(place(guest))) as channel:
        there, _ = guest.accept()
        with there:
            there.sendall(b"hello")
            assert channel.recv(64) == b"hello"
        assert not channel.getblocking()
        assert not os.get_inheritable(channel.fileno())


def test_no_link_leads_elsewhere(guest: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "link.sock").symlink_to(place(guest))
    (tmp_path / "way").symlink_to(tmp_path)
    for path in (tmp_path / "link.sock", tmp_path / "way" / "agent.sock", tmp_path / "." / ".." / tmp_path.name):
        with pytest.raises(ChannelError, match="link or no socket"):
            open_channel(str(path))


def test_what_is_no_socket_or_listens_no_more_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ChannelError, match="no socket"):
        open_channel(str(tmp_path / "file"))
    with pytest.raises(ChannelError, match="no socket at"):
        open_channel(str(tmp_path / "absent"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ChannelError, match="nobody takes"):
        open_channel(str(tmp_path / "dead"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def desk(path: Path, guest: socket.socket, *, uid: int) -> threading.Thread:
    """An enforcer that answers once."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def answer() -> None:
        with server:
            connection, _ = server.accept()
            with connection:
                assert parse_vm(connection.recv(64)) == VM
                try:
                    hand_over(connection, open_channel(str(place(guest))), allowed_uid=uid)
                except ChannelError:
                    pass

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_the_gateway_gets_what_the_enforcer_opened(guest: socket.socket, tmp_path: Path) -> None:
    thread = desk(tmp_path / "channels.sock", guest, uid=os.getuid())
    with fetch(tmp_path / "channels.sock", VM) as channel:
        thread.join()
        there, _ = guest.accept()
        with there:
            channel.send(b"ask")
            assert there.recv(64) == b"ask"


def test_another_user_gets_no_channel(guest: socket.socket, tmp_path: Path) -> None:
    thread = desk(tmp_path / "channels.sock", guest, uid=os.getuid() + 1)
    with pytest.raises(ConnectionError):
        fetch(tmp_path / "channels.sock", VM)
    thread.join()


def test_no_enforcer_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        fetch(tmp_path / "channels.sock", VM)


@given(st.binary(max_size=64))
def test_only_a_uuid_is_asked_for(untrusted_bytes: bytes) -> None:
    try:
        vm = parse_vm(untrusted_bytes)
    except ChannelError:
        return
    assert vm.encode() == untrusted_bytes
    assert len(vm) == 36


def test_a_uuid_is_taken() -> None:
    assert parse_vm(VM.encode()) == VM
    for untrusted in (VM.upper().encode(), b"../../libvirt-sock", b"", VM.encode() + b"\n"):
        with pytest.raises(ChannelError):
            parse_vm(untrusted)
