"""The matrix is resumable, keeps to its time, and reports what happened."""

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.dataplane import LINKS, SCALES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with its results in a place of its own and a fixed commit."""
    spec = importlib.util.spec_from_file_location("verify_script", ROOT / "scripts" / "verify.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "verify_script", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "_git", lambda *words: "c0ffee" * 7 if words[0] == "rev-parse" else "")
    return module


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_second_call_runs_only_what_is_missing(verify: ModuleType, tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"
    first = verify.Slice("first", 0.1, python(count))
    assert verify.main([], [first]) == 0
    second = verify.Slice("second", 0.1, python(count))
    assert verify.main([], [first, second]) == 0
    assert (tmp_path / "runs").read_text() == "xx"
    assert verify.main(["first"], [first, second]) == 0
    assert (tmp_path / "runs").read_text() == "xxx", "a slice that is named is run anew"


def test_a_result_holds_while_the_code_that_it_ran_is_the_same(
    verify: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = {"src": "1", "tests": "1"}

    def git(*words: str) -> str:
        return (
            "c0ffee" * 7 if words[0] == "rev-parse" else "".join(trees.get(w, "") for w in words if "ls-tree" in words)
        )

    monkeypatch.setattr(verify, "_git", git)
    runs = tmp_path / "runs"
    one = verify.Slice("one", 0.1, python(f"open({str(runs)!r}, 'a').write('x')"), code=("src",))
    for changed, count in ((None, 1), ("tests", 1), ("src", 2), (None, 2)):
        trees |= {changed: trees[changed] + "2"} if changed else {}
        assert verify.main([], [one]) == 0
        assert len(runs.read_text()) == count


def test_every_attack_has_a_control(verify: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ROOT", ROOT)
    names = {part.name for part in verify.slices()}
    assert "control-syn-flood-inside" in names
    assert "control-backup" not in names
    assert len([name for name in names if name.startswith("control-")]) >= 12


def test_a_long_benchmark_is_measured_in_parts(verify: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ROOT", ROOT)
    parts = {part.name: part.argv[1:] for part in verify.slices()}
    rules = parts["bench-dataplane-veth-rules"]
    assert rules == ("-m", "bench.dataplane", "--link", "veth", "--setup", "nftables", "conntrack")
    assert parts["bench-agent"] == ("-m", "bench.agent")
    assert "bench-dataplane" not in parts
    measured = [
        (argv[3], setup) for name, argv in parts.items() if name.startswith("bench-dataplane-") for setup in argv[5:]
    ]
    assert sorted(measured) == sorted(itertools.product(LINKS, SCALES)), "every setup over every link, once"


def test_the_report_has_results_failures_and_what_is_missing(verify: ModuleType, tmp_path: Path) -> None:
    good = verify.Slice("good", 0.1, python("import sys; open(sys.argv[1], 'w').write('{\"p50_s\": 0.41}')"), seed=7)
    good = verify.Slice("good", 0.1, (*good.argv, "{json}"), 7)
    bad = verify.Slice("bad", 0.1, python("print('the guest did not boot'); raise SystemExit(3)"))
    too_long = verify.Slice("too-long", 999, python(""))
    assert verify.main([], [good, bad, too_long]) == 1
    (path,) = (tmp_path / "reports").glob("verify-*.md")
    text = path.read_text(encoding="utf-8")
    assert "| good | right |" in text
    assert "| p50_s | 0.41 |" in text
    assert "| bad | **wrong** |" in text
    assert "the guest did not boot" in text
    assert "| too-long | not run |" in text
    assert "c0ffee" in text


def test_unfinished_is_not_success(verify: ModuleType) -> None:
    assert verify.main([], [verify.Slice("too-long", 999, python(""))]) == 2


def test_a_slice_ends_with_its_time(verify: ModuleType, tmp_path: Path) -> None:
    outcome = verify.run_slice(verify.Slice("slow", 0.005, python("import time; time.sleep(600)")), tmp_path)
    assert not outcome.ok
    assert outcome.seconds < 60
    assert "ended after" in outcome.tail[-1]


def test_an_unknown_slice_is_one_sentence(verify: ModuleType) -> None:
    said: list[str] = []
    assert verify.main(["nonesuch"], [], said.append) == 1
    assert said == ["verify: there is no slice nonesuch; 'scripts/verify.py --list' shows them"]


def test_every_slice_fits_into_one_call(verify: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ROOT", ROOT)
    parts = verify.slices()
    assert len({part.name for part in parts}) == len(parts)
    assert all(part.minutes * 60 <= verify.BUDGET_S for part in parts)
