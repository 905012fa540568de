"""The repository as text and syntax trees, for tests that read code instead of running it."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "hypervigil"


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of one file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def files(*parts: str) -> list[Path]:
    """Every Python file below these folders of the package, or of the whole package."""
    roots = [PACKAGE / part for part in parts] or [PACKAGE]
    return sorted(path for root in roots for path in (root.rglob("*.py") if root.is_dir() else [root]))


def name(path: Path) -> str:
    """A file as people name it."""
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    """A file of the package as a module's name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, also inside functions (``from a import b`` counts as a and a.b)."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(origin), names=names):
                found.add(origin)
                found |= {f"{origin}.{alias.name}" for alias in names}
    return found


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for an attribute chain, else an empty string."""
    match node:
        case ast.Name(id=identifier):
            return identifier
        case ast.Attribute(value=value, attr=attribute):
            head = dotted(value)
            return f"{head}.{attribute}" if head else ""
    return ""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call by a plain or dotted name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def process_files(entrypoint: str) -> list[Path]:
    """Our own files that enter a process which starts at this module: the import closure."""
    known = {module(path): path for path in files()}
    seen: set[str] = set()
    todo = [entrypoint]
    while todo:
        current = todo.pop()
        if current in seen or current not in known:
            continue
        seen.add(current)
        parents = current.split(".")
        todo += [".".join(parents[:end]) for end in range(1, len(parents))]
        todo += imports(known[current])
    return sorted(known[found] for found in seen)
