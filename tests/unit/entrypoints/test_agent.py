"""``hypervigil agent install``: what it needs before it begins, and how it ends."""

import os

import libvirt
import pytest
from click.testing import CliRunner

from hypervigil.entrypoints.cli import main
from tests.unit.hypervisor.adapters.libvirt.test_guest_install import Connection, Domain, Guest, refused


class Open(Connection):
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return monkeypatch


def run(*words: str):
    return CliRunner().invoke(main, ["agent", "install", *words])


def test_it_says_what_it_did(root: pytest.MonkeyPatch) -> None:
    connection, guest = Open(Domain()), Guest()
    root.setattr(libvirt, "open", lambda _uri: connection)
    root.setattr("libvirt_qemu.qemuAgentCommand", guest)
    done = run("web-1")
    assert done.exit_code == 0, done.output
    assert "web-1 was given a port for the agent" in done.output
    assert "started by systemd" in done.output
    stage = "/run/hypervigil-agent.install"
    assert guest.files[f"{stage}/agent"].startswith(b"#!/bin/sh\n"), "the agent as it is shipped"
    assert b"[Service]" in guest.files[f"{stage}/unit"]
    assert guest.files[f"{stage}/openrc"].startswith(b"#!/sbin/openrc-run\n")
    assert connection.closed


def test_bad_input_is_one_sentence_and_no_success(root: pytest.MonkeyPatch) -> None:
    connection = Open(Domain(active=False))
    root.setattr(libvirt, "open", lambda _uri: connection)
    for words, says in ((("web-1",), "web-1 is off"), (("web-9",), "there is no VM 'web-9'")):
        done = run(*words)
        assert done.exit_code == 1
        assert done.output.startswith("hypervigil: ")
        assert says in done.output
        assert done.output.count("\n") == 1
    assert connection.closed


def test_without_libvirt_or_root_it_says_so(root: pytest.MonkeyPatch) -> None:
    def fails(_uri: str) -> None:
        raise refused(libvirt.VIR_ERR_SYSTEM_ERROR, "cannot connect")

    root.setattr(libvirt, "open", fails)
    assert "is libvirtd running?" in run("web-1").output
    root.setattr(os, "geteuid", lambda: 1000)
    done = run("web-1")
    assert (done.exit_code, done.output) == (1, "hypervigil: hypervigil agent install needs root: run it with sudo\n")
