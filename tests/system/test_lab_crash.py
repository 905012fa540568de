"""A lab that dies in the middle: everything it left is found by name and removed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import libvirtd
from lab.clean import clean_all
from lab.errors import LabError
from lab.residue import look, residue

pytestmark = [pytest.mark.guests, pytest.mark.root]

CRASHING = """
from lab import libvirtd
from lab.ext import Ext
from lab.definition import GuestSpec
from lab.guests import Guest
from lab.network import Networks, NetworkSpec
with libvirtd.running(), Networks([NetworkSpec("crash", "10.61.0.0/24")]) as networks:
    guest = Guest(GuestSpec("test-a", "red", "crash", 0), networks["crash"])
    guest.start(on_created=lambda _: None)
    ext = Ext()
    ext.spawn("sleep 1234")
    print("up", flush=True)
    input()
"""


def test_what_a_killed_lab_leaves_is_removed_and_not_while_it_lives() -> None:
    with libvirtd.running():
        before = look()
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            [sys.executable, "-c", CRASHING], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as lab:
            assert lab.stdout is not None
            assert lab.stdout.readline() == "up\n"
            with pytest.raises(LabError, match="another lab"):
                clean_all()
            lab.send_signal(signal.SIGKILL)
        left = residue(before)
        for expected in ("link hvl-crash", "namespace hvl-ext", "domain hvl-test-a"):
            assert expected in left
        removed = clean_all()
        assert "link hvl-crash" in removed
        assert "domain hvl-test-a" in removed
        assert residue(before) == []
        assert clean_all() == []
