"""Pack the agent for guests into one file; the same source gives the same bytes."""

import ast
import base64
import io
import shutil
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PACKAGING = ROOT / "packaging" / "guest"
TARGET = SOURCE / "hypervigil" / "guest" / "hypervigil-agent"
STARTS_IT = (PACKAGING / "hypervigil-agent.service", PACKAGING / "hypervigil-agent.openrc")
OLDEST = (3, 7)
PRELUDE = b"""#!/bin/sh
# Hypervigil's agent for guests: a zip archive behind these lines. Usage: hypervigil-agent [PORT [STATE]]
exec python3 -I -S -OO -c 'import sys; sys.path.insert(0, sys.argv[1])
from hypervigil.guest import start; start.main(sys.argv[1:])' "$0" "$@"
exit 127
"""


def sources() -> list[Path]:
    """What goes in."""
    return [SOURCE / "hypervigil" / "__init__.py", *sorted((SOURCE / "hypervigil" / "guest").rglob("*.py"))]


def packed() -> bytes:
    """The file's content; ``SyntaxError`` where a guest's old Python would not read it."""
    archive = io.BytesIO()
    archive.write(PRELUDE)
    with zipfile.ZipFile(archive, "a") as file:
        for path in sources():
            text = path.read_text(encoding="utf-8")
            ast.parse(text, str(path), feature_version=OLDEST)
            entry = zipfile.ZipInfo(path.relative_to(SOURCE).as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            file.writestr(entry, text)
    return archive.getvalue()


def cloud_init(agent: bytes) -> str:
    """The cloud-init file with the agent and its unit in it."""
    text = (PACKAGING / "cloud-init.yaml").read_text(encoding="utf-8")
    unit = (PACKAGING / "hypervigil-agent.service").read_bytes()
    for mark, content in (("@AGENT@", agent), ("@UNIT@", unit)):
        text = text.replace(mark, base64.b64encode(content).decode())
    return text


def _replace(path: Path, content: bytes, mode: int) -> None:
    if not path.exists() or path.read_bytes() != content:
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_bytes(content)
        fresh.chmod(mode)
        fresh.replace(path)


def main() -> None:
    """Write it where it is not there yet; with a directory as argument also all that a guest needs into that."""
    content = packed()
    _replace(TARGET, content, 0o755)
    for path in STARTS_IT:  # for 'hypervigil agent install'
        _replace(TARGET.parent / path.name, path.read_bytes(), 0o644)
    if len(sys.argv) > 1:
        directory = Path(sys.argv[1])
        directory.mkdir(parents=True, exist_ok=True)
        for path in (TARGET, *STARTS_IT):
            shutil.copy(path, directory)
        (directory / "cloud-init.yaml").write_text(cloud_init(content), encoding="utf-8")
        print(
            f"{directory}: the agent for guests, {len(content)} bytes, and what starts it; "
            "see packaging/guest/README.md"
        )


if __name__ == "__main__":
    main()
