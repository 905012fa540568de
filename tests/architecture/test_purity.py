"""What decides is a function of its inputs: no clock, no dice, no I/O (`STYLE`: the idea)."""

import ast
import sys
from pathlib import Path

import pytest

from tests.architecture.source import calls, files, imports, name, tree

PURE = (
    *("model", "network", "host/hsem", "host/hrem", "host/inventory"),
    *("guest/vsem", "guest/vrem", "guest/lines.py", "guest/notices.py", "guest/proc.py", "guest/ring.py"),
    *("guest/snapshot.py", "guest/sockets.py"),
    *(
        "host/gateway/budget.py",
        "host/gateway/hearing.py",
        "host/gateway/mail.py",
        "host/monitor/guests.py",
        "host/monitor/guidance.py",
    ),
)
IMPURE_MODULES = {
    "asyncio",
    "fcntl",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "posix",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}
IMPURE_METHODS = (".now", ".utcnow", ".today", ".random", ".default_rng", ".urandom")


def _faults(path: Path) -> list[str]:
    found = [f"imports {module}" for module in sorted(imports(path)) if module.split(".")[0] in IMPURE_MODULES]
    for called, node in calls(path):
        if called in IMPURE_CALLS or called.endswith(IMPURE_METHODS):
            found.append(f"line {node.lineno} calls {called}()")
    found += [f"line {node.lineno} has global state" for node in ast.walk(tree(path)) if isinstance(node, ast.Global)]
    return found


@pytest.mark.req("T-CORE-9")
@pytest.mark.parametrize("path", files(*PURE), ids=name)
def test_what_decides_is_pure(path: Path) -> None:
    assert _faults(path) == []


def test_the_purity_test_can_fail(tmp_path: Path) -> None:
    impure = tmp_path / "impure.py"
    impure.write_text(
        "import time\nfrom datetime import datetime\n"
        "def f():\n    global x\n    x = datetime.now()\n    open('x')\n    return time.time()\n",
        encoding="utf-8",
    )
    assert len(_faults(impure)) == 4


@pytest.mark.parametrize("path", files("model"), ids=name)
def test_the_model_is_standard_library_only(path: Path) -> None:
    foreign = {
        module
        for module in imports(path)
        if module.split(".")[0] not in sys.stdlib_module_names and not module.startswith("hypervigil.model")
    }
    assert foreign == set()


@pytest.mark.parametrize("path", files("model"), ids=name)
def test_values_are_frozen(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            enumeration = any("Enum" in ast.unparse(base) for base in node.bases)
            assert enumeration or "dataclass(frozen=True, slots=True)" in decorators, node.name


@pytest.mark.req("A31")
def test_libvirt_is_spoken_to_in_one_place() -> None:
    """Besides its adapter only by root's own command, which puts the agent into a guest."""
    speaking = {path for path in files() if {"libvirt", "libvirt_qemu"} & imports(path)}
    adapter = set(files("hypervisor/adapters/libvirt"))
    assert len(speaking & adapter) > 3
    assert [name(path) for path in sorted(speaking - adapter)] == ["src/hypervigil/entrypoints/cli/agent.py"]
