"""What is tested is what users get: the installed package, whole and equal to the source."""

from pathlib import Path

import hypervigil
from tests.architecture.source import PACKAGE, ROOT

INSTALLED = Path(hypervigil.__file__).parent


def _content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_the_installed_package_is_the_source() -> None:
    source, installed = _content(PACKAGE), _content(INSTALLED)
    assert sorted(source) == sorted(installed)
    assert [path for path in source if source[path] != installed[path]] == []


def test_the_data_plane_is_in_the_package() -> None:
    objects = list((INSTALLED / "hypervisor" / "bpf").glob("*.bpf.o"))
    assert objects, "no compiled data plane: run 'make setup'"
    for path in objects:
        assert path.read_bytes()[:4] == b"\x7fELF"


def test_the_agent_is_in_the_package() -> None:
    assert (INSTALLED / "guest" / "hypervigil-agent").read_bytes().startswith(b"#!/bin/sh\n")


def test_every_package_says_its_part() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("__init__.py")
        if not path.read_text(encoding="utf-8").startswith('"""')
    ]
    assert silent == []
