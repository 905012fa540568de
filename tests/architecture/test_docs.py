"""The documents say what is there: names, links, commands, tests."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import hypervigil
from tests.architecture.source import ROOT, dotted, files, name, tree

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "packaging").rglob("*.md")])
SPECIFICATION = ROOT / "SPECIFICATION.md"


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def collected_tests() -> dict[str, set[str]]:
    """Every test function by its file."""
    return {
        name(path): {
            node.name
            for node in ast.walk(tree(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        }
        for path in (ROOT / "tests").rglob("test_*.py")
    }


def marked_requirements() -> dict[str, set[str]]:
    """Requirement ids of ``@pytest.mark.req`` by the file that uses them."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and dotted(node.func) == "pytest.mark.req":
                ids = {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
                found.setdefault(name(path), set()).update(map(str, ids))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(document))
    local = [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]
    assert [target for target in local if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)", text(document)))
    assert named <= targets, named - targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_paths_in_code_quotes_exist(document: Path) -> None:
    quoted = re.findall(r"`((?:src|lab|bench|tests|docs|scripts|packaging)/[\w./-]+)`", text(document))
    assert [path for path in quoted if not (ROOT / path).exists()] == []


def test_documents_stay_short_enough_to_be_read() -> None:
    assert len(text(ROOT / "README.md").splitlines()) <= 120
    assert len(text(ROOT / "ARCHITECTURE.md").splitlines()) <= 130, "two pages and the diagram"


def test_every_word_of_the_model_is_in_the_glossary() -> None:
    glossary = text(ROOT / "docs" / "glossary.md")
    public: set[str] = set()
    for path in files("model"):
        for node in tree(path).body:
            match node:
                case ast.ClassDef(name=word):
                    public.add(word)
                case ast.Assign(targets=[ast.Name(id=word)], value=ast.Call(func=ast.Name(id="NewType"))):
                    public.add(word)
    missing = {word for word in public if not word.startswith("_") and f"`{word}`" not in glossary}
    assert missing == set()


def test_every_kind_of_evidence_is_in_the_glossary() -> None:
    """Wherever the engines make evidence, its kind is a word that an operator can look up."""
    glossary = text(ROOT / "docs" / "glossary.md")
    kinds: set[str] = set()
    for path in files("host/hsem", "host/hrem"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "Evidence":
                kinds |= {
                    keyword.value.value
                    for keyword in node.keywords
                    if keyword.arg == "kind" and isinstance(keyword.value, ast.Constant)
                }
    assert {kind for kind in kinds if f"`{kind}`" not in glossary} == set()


def test_the_specification_names_tests_that_exist() -> None:
    tests = collected_tests()
    wrong = []
    for path, function in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text(SPECIFICATION)):
        if path not in tests or (function and function not in tests[path]):
            wrong.append(f"{path}::{function}")
    assert wrong == []


def test_every_promise_has_a_test_a_benchmark_or_the_word_pending() -> None:
    rows = [
        line for line in text(SPECIFICATION).splitlines() if line.startswith("| ") and not line.startswith("| promise")
    ]
    assert len(rows) > 20
    bare = [row for row in rows if not re.search(r"`(tests|bench)/|`make |`python -m lab|\*\*pending\*\*", row)]
    assert bare == []


def test_requirements_that_tests_claim_are_in_the_specification() -> None:
    specification = text(SPECIFICATION)
    unknown = {
        f"{identifier} ({path})"
        for path, identifiers in marked_requirements().items()
        for identifier in identifiers
        if not re.search(rf"\b{re.escape(identifier)}\b", specification)
    }
    assert unknown == set()


def shown_toml(documents: list[Path]) -> list[str]:
    return [block for document in documents for block in re.findall(r"```toml\n(.*?)```", text(document), re.DOTALL)]


def test_policies_shown_are_policies() -> None:
    from hypervigil.host import policyfile

    shown = shown_toml([document for document in DOCUMENTS if document.name != "scenarios.md"])
    assert shown
    for block in shown:
        policyfile.parse(block)


def test_scenarios_shown_are_scenarios() -> None:
    from lab import scenario

    page = ROOT / "docs" / "scenarios.md"
    shown = shown_toml([page])
    assert shown
    for block in shown:
        scenario.parse(block)
    tables = (scenario.NetworkTable, scenario.GuestTable, scenario.Step, scenario.Expectation, scenario.Limits)
    keys = {key for table in tables for key in table.__struct_encode_fields__}
    assert {key for key in keys if f"`{key}`" not in text(page)} == set(), "keys that the page does not explain"


def test_decisions_are_listed_and_numbered() -> None:
    pages = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", text(ROOT / "docs" / "decisions" / "README.md"))
    assert listed == pages
    assert [page[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    reasons = text(ROOT / "docs" / "decisions" / "0005-dependencies.md").lower()
    named = [re.split(r"[<>=\[; ]", dependency)[0].lower() for dependency in project["dependencies"]]
    assert [dependency for dependency in named if f"| {dependency}" not in reasons] == []


def test_the_changelog_knows_this_version() -> None:
    changelog = text(ROOT / "CHANGELOG.md")
    assert "## [Unreleased]" in changelog or f"## [{hypervigil.__version__}]" in changelog


def _commands(prefix: list[str]) -> list[list[str]]:
    """Every command and subcommand that the program has."""
    import click

    from hypervigil.entrypoints.cli import main

    found: list[list[str]] = []
    todo: list[tuple[list[str], click.Command]] = [(prefix, main)]
    while todo:
        words, command = todo.pop()
        if isinstance(command, click.Group):
            todo += [([*words, key], value) for key, value in command.commands.items()]
        else:
            found.append(words)
    return sorted(found)


def test_the_command_reference_is_what_the_program_prints() -> None:
    """Made by ``make reference``."""
    shown = text(ROOT / "docs" / "commands.md")
    for words in _commands(["hypervigil"]):
        assert f"$ {' '.join(words)} --help" in shown


def test_the_page_of_levels_is_what_the_table_says() -> None:
    """Made by ``make reference``."""
    from scripts.levels_reference import MEANING, TARGET, State, reference

    assert set(MEANING) == set(State)
    assert text(TARGET) == reference()


def test_the_readme_shows_every_command_and_none_that_is_not_there() -> None:
    readme = text(ROOT / "README.md")
    commands = _commands(["hypervigil"])
    first = {words[1] for words in commands}
    shown = set(re.findall(r"hypervigil ([a-z]+)", readme))
    assert first - shown == set(), "commands that README does not show"
    shown_in_block = set(re.findall(r"^hypervigil ([a-z]+)", readme, re.MULTILINE))
    assert shown_in_block - first == set(), "README shows what is not there"


def test_options_shown_in_the_readme_are_taken() -> None:
    from hypervigil.entrypoints.cli import main

    for line in re.findall(r"^hypervigil ([^#\n]+)", text(ROOT / "README.md"), re.MULTILINE):
        words = [word for word in line.split() if not word.startswith("-")]
        command: list[str] = []
        for word in words:
            if [*command, word] in [found[1 : len(command) + 2] for found in _commands(["hypervigil"])]:
                command.append(word)
        help_text = CliRunner().invoke(main, [*command, "--help"]).output
        for option in re.findall(r"--[a-z-]+", line):
            assert re.search(rf"{option}\b", help_text), f"'hypervigil {' '.join(command)}' does not take {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_help_blocks_are_what_the_program_prints(document: Path) -> None:
    blocks = re.findall(r"```\w*\n\$ hypervigil ?([^\n]*)--help\n(.*?)```", text(document), re.DOTALL)
    if not blocks:
        return
    from hypervigil.entrypoints.cli import main

    for words, shown in blocks:
        result = CliRunner().invoke(main, [*words.split(), "--help"], prog_name="hypervigil", terminal_width=110)
        assert result.output.strip() == shown.strip()
