"""Habits on which the trust zones rest, read from the code itself."""

import ast
import re
import sys
import tokenize
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, ROOT, calls, files, imports, name, process_files, tree

ENFORCER_LINES = 1500
FILE_LINES = 500
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
UNSAFE = {"pickle.loads", "pickle.load", "marshal.loads", "yaml.load", "eval", "exec"}
SHARED_WORDS = ("hypervigil/model/", "hypervigil/wire/", "hypervigil/network/")


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def code_lines(path: Path) -> int:
    """Lines that hold code: without blank ones, comments and docstrings."""
    prose: set[int] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in NOT_CODE:
                code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - prose)


def python_files() -> list[Path]:
    return [*files(), *sorted((ROOT / "lab").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]


@pytest.mark.parametrize("path", python_files(), ids=name)
def test_programs_run_without_a_shell_and_bytes_never_become_code(path: Path) -> None:
    for called, node in calls(path):
        assert called not in SHELLS | UNSAFE, f"line {node.lineno} calls {called}"
        for keyword in node.keywords:
            shell = keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            assert not shell, f"line {node.lineno} asks for a shell"


@pytest.mark.parametrize("path", files(), ids=name)
def test_no_failure_is_swallowed_unseen(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type is not None else "everything"
            broad = caught in {"everything", "Exception", "BaseException"}
            silent = all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)
            assert not (broad and silent), f"line {node.lineno} swallows {caught}"


@pytest.mark.parametrize("path", files(), ids=name)
def test_files_stay_small_enough_to_read(path: Path) -> None:
    assert lines(path) <= FILE_LINES


def root_lines() -> dict[str, int]:
    """Lines of all that runs as root and is ours, but for the words that every process shares."""
    closure = process_files("hypervigil.entrypoints.enforcer")
    return {
        name(path): code_lines(path) for path in closure if not any(part in path.as_posix() for part in SHARED_WORDS)
    }


@pytest.mark.xfail(reason="SPECIFICATION.md says how many lines there are, and why", strict=True)
def test_the_only_root_process_is_small_enough_to_review() -> None:
    counted = root_lines()
    assert sum(counted.values()) <= ENFORCER_LINES, counted


def test_the_specification_says_how_large_the_root_process_is() -> None:
    counted = root_lines()
    data_plane = sum(lines for path, lines in counted.items() if "/adapters/ebpf/" in path)
    row = re.search(
        r"\*\*missed\*\*: ([\d,]+) lines of code; ([\d,]+) of them", (ROOT / "SPECIFICATION.md").read_text("utf-8")
    )
    assert row is not None
    assert [f"{sum(counted.values()):,}", f"{data_plane:,}"] == list(row.groups())


def test_no_engine_enters_the_root_process() -> None:
    closure = process_files("hypervigil.entrypoints.enforcer")
    assert closure, "the enforcer's entry point is missing"
    assert [name(path) for path in closure if PACKAGE / "host" in path.parents] == []


def test_the_root_process_needs_few_of_our_dependencies() -> None:
    wanted: set[str] = set()
    for path in process_files("hypervigil.entrypoints.enforcer"):
        wanted |= {module.split(".")[0] for module in imports(path)}
    foreign = wanted - sys.stdlib_module_names - {"hypervigil"}
    assert foreign <= {"cryptography", "libvirt", "msgspec", "pyroute2"}


@pytest.mark.req("T-CORE-9")
def test_nothing_that_collects_or_enforces_enters_the_monitor() -> None:
    closure = process_files("hypervigil.entrypoints.monitor")
    assert closure, "the monitor's entry point is missing"
    assert [name(path) for path in closure if PACKAGE / "hypervisor" in path.parents] == []


@pytest.mark.req("T-CORE-9")
def test_only_the_enforcer_keeps_root() -> None:
    from hypervigil.entrypoints.supervise import SERVICES

    assert {service.name for service in SERVICES} == {"enforcer", "monitor", "sensors", "gateway"}
    assert [service.name for service in SERVICES if service.user is None] == ["enforcer"]
    assert len({service.user for service in SERVICES}) == len(SERVICES), "two zones share a user"


@pytest.mark.parametrize("path", files("wire"), ids=name)
def test_bytes_from_another_process_are_called_untrusted(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("feed", "parse", "decode", "read", "receive")):
            for argument in [*node.args.args, *node.args.kwonlyargs]:
                if argument.annotation is not None and ast.unparse(argument.annotation) in {"bytes", "bytearray"}:
                    assert argument.arg.startswith("untrusted_"), f"{node.name}({argument.arg})"
