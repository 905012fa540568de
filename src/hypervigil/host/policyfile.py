"""The operator's policy as a TOML file: read strictly, compared, explained, swapped whole; the last good one stays."""

import hashlib
import re
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path

from hypervigil.host.durable import replace_file
from hypervigil.host.policyreader import Reader
from hypervigil.host.policytables import KEYS, TABLES, keys_of
from hypervigil.host.policyvalues import Fault, clean, shown
from hypervigil.model.grants import GrantPolicy
from hypervigil.model.policy import Mode, Policy

__all__ = ["KEYS", "MAX_BYTES", "PolicyError", "PolicyStore", "describe", "diff", "load", "load_text", "parse", "read"]

MAX_BYTES = 4 * 1024 * 1024


class PolicyError(Exception):
    """One sentence: what is wrong with the policy, where, and the mend."""


def load(path: Path, *, unsaid: Mode = Mode.MONITOR) -> Policy:
    """The policy in a file."""
    return parse(read(path), str(path), unsaid=unsaid)


def load_text(path: Path) -> tuple[Policy, str]:
    """The policy in a file, and its text: both of one reading, since a pipe gives its text only once."""
    text = read(path)
    return parse(text, str(path)), text


def read(path: Path) -> str:
    """The text of a policy file. ``PolicyError`` if there is none to read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise PolicyError(f"{path} does not exist: name the policy file") from None
    except IsADirectoryError:
        raise PolicyError(f"{path} is a folder: name the policy file in it") from None
    except PermissionError:
        raise PolicyError(f"you may not read {path}: be root, or change its permissions") from None
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}; name another file, or mend that") from error
    if len(data) > MAX_BYTES:
        raise PolicyError(f"{path} is larger than the {MAX_BYTES} bytes of a policy: is it the right file?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{path}, line {line}: not text in UTF-8; save it as UTF-8") from None


def parse(text: str, name: str = "the policy", *, unsaid: Mode = Mode.MONITOR) -> Policy:
    """The policy that ``text`` says; ``name`` is how errors call it. ``PolicyError`` in one sentence.

    ``unsaid`` is the mode of a host whose policy says none: what the monitor was started with.
    """
    if len(text) > MAX_BYTES:
        raise PolicyError(f"{name} is larger than the {MAX_BYTES} bytes of a policy: is it the right file?")
    try:
        # The comment gives a mistake in the last line a line of its own; TOML's parser says "end of document" else.
        document = tomllib.loads(text + "\n# end\n")
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(_not_toml(name, str(error))) from None
    except ValueError:
        raise PolicyError(_endless(name, text)) from None
    except RecursionError:
        raise PolicyError(f"{name}: nested far too deep to be a policy") from None
    try:
        return Reader(text, unsaid).policy(document)
    except Fault as fault:
        raise PolicyError(f"{name}: {fault}") from None


def diff(old: Policy, new: Policy) -> list[str]:
    """What changes from one to the other, a sentence each; empty if nothing does."""
    changes = [
        f"{key}: {shown(getattr(old, key))} → {shown(getattr(new, key))}"
        for key in ("mode", "ladder")
        if getattr(old, key) != getattr(new, key)
    ]
    if old.ruled != new.ruled:
        changes.append(_RULED if new.ruled else "network policy: given → none: the bridges alone decide")
    for table in TABLES:
        before, after = getattr(old, table.field), getattr(new, table.field)
        if table.many:
            changes += _compared(table.kind, {one.name: one for one in before}, {one.name: one for one in after})
        else:
            changes += [f"{table.kind}, {change}" for change in _changes(before, after)]
    return changes


def describe(policy: Policy, *, mode_said: bool = True) -> list[str]:
    """What a policy says, a line each, defaults included."""
    does = "drops nothing and says what it would do" if policy.mode is Mode.MONITOR else "acts"
    unless = "" if mode_said else "; it says none, so that 'hypervigil up --enforce' makes it enforce"
    lines = [f"mode {policy.mode}: {does}{unless}", f"an attacker meets, in turn: {', '.join(policy.ladder)}"]
    bounds = (f"{key.name} {getattr(policy.bounds, key.name):g}" for key in keys_of(policy.bounds))
    lines.append(f"bounds: {', '.join(bounds)}")
    if policy.grants != GrantPolicy():
        lines.append(f"grants: {_told(policy.grants)}")
    if policy.ruled:
        lines.append("network policy: given; what nothing allows is denied")
        lines.append(f"floor: {_told(policy.floor)}")
    for table in TABLES:
        if table.many:
            lines += [f"{table.kind} {one.name}: {_told(one)}" for one in getattr(policy, table.field)]
    return lines


class PolicyStore:
    """The last good policy, kept as its text in ``policy.toml`` of a state directory.

    ``unsaid`` is the mode of a host whose policy says none, ``file`` an operator's file that counts where it changes,
    and ``handed`` where a policy for the next start may lie.
    """

    def __init__(
        self,
        state_dir: Path,
        unsaid: Mode = Mode.MONITOR,
        *,
        file: Path | None = None,
        handed: Path | None = None,
    ) -> None:
        self.unsaid = unsaid
        self.file = file
        self.handed = handed
        self.path = state_dir / "policy.toml"
        self.before = state_dir / "policy-before.toml"
        self._taken = state_dir / "policy-taken.sha256"

    def load(self) -> Policy | None:
        """The last good policy, or ``None`` where none was ever applied. ``PolicyError`` if somebody spoilt it."""
        return load(self.path, unsaid=self.unsaid) if self.path.exists() else None

    def text(self) -> str | None:
        """The last good policy as it was written, comments and all."""
        return read(self.path) if self.path.exists() else None

    def apply(self, text: str, name: str = "the new policy") -> Policy:
        """Check ``text``, then swap it in whole. On ``PolicyError`` or ``OSError`` the last good one stays."""
        policy = parse(text, name, unsaid=self.unsaid)
        replace_file(self.path, text.encode("utf-8"))
        with suppress(OSError, PolicyError):  # what lies elsewhere by now is older than this
            if self.handed is not None:
                self.handed.unlink(missing_ok=True)
            if self.file is not None:
                replace_file(self._taken, _digest(read(self.file)))
        return policy

    def keep(self, text: str) -> bool:
        """Apply; whether the text is another than what was kept before."""
        try:
            was = self.text()
        except PolicyError:  # somebody spoilt it
            was = None
        self.apply(text)
        return was != text

    def has_taken(self, text: str) -> bool:
        """Whether ``text`` is what was last taken from an operator's file, so that what was applied since goes on."""
        try:
            return self.path.exists() and self._taken.read_bytes() == _digest(text)
        except OSError:
            return False

    def take(self, text: str) -> bool:
        """Swap in the sound ``text`` of an operator's file; whether it replaced another policy, kept in ``before``."""
        data = text.encode("utf-8")
        was = self.path.read_bytes() if self.path.exists() else data
        if was != data:
            replace_file(self.before, was)
        replace_file(self.path, data)
        # The last step: whoever is stopped before it takes the file again, and nothing is lost.
        replace_file(self._taken, _digest(text))
        return was != data


_RULED = "network policy: none → given: between VMs, what nothing allows is denied"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).hexdigest().encode("ascii")


# --- words ---------------------------------------------------------------------------------------------------------
def _not_toml(name: str, complaint: str) -> str:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", complaint, re.DOTALL)
    if found is None:
        return f"{name} is not TOML: {clean(complaint)}"
    what, line, column = found.groups()
    where = f"line {line}, column {column}" if line else "at its end"
    return f"{name}, {where}: not TOML ({clean(what)}); mend that line"


def _endless(name: str, text: str) -> str:
    """About a number with more digits than Python reads, which is all that its parser of TOML lets through."""
    most = sys.get_int_max_str_digits()
    found = re.compile(rf"[^#\"']*?(?<!\w)[+-]?\d(?:_?\d){{{most},}}(?![\w.])")
    line = next((n for n, one in enumerate(text.splitlines(), start=1) if found.match(one)), None)
    if line is None:
        return f"{name} has a number of more than {most:,} digits: write a smaller one"
    key, equals, _ = text.splitlines()[line - 1].partition("=")
    what = f"{clean(key.strip())[:60]} has" if equals else "there is"
    return f"{name}, line {line}: {what} a number of more than {most:,} digits; write a smaller one"


def _changes(old: object, new: object) -> list[str]:
    return [
        f"{key.name}: {shown(getattr(old, key.attribute))} → {shown(getattr(new, key.attribute))}"
        for key in keys_of(old)
        if getattr(old, key.attribute) != getattr(new, key.attribute)
    ]


def _compared(kind: str, old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    changes = [f"{kind} {name}: removed" for name in old if name not in new]
    for name, table in new.items():
        if name not in old:
            changes.append(f"{kind} {name}: added ({_told(table)})")
        else:
            changes += [f"{kind} {name}, {change}" for change in _changes(old[name], table)]
    return changes


def _told(table: object) -> str:
    """The keys of a table that say more than its default, without its name."""
    defaults = {
        f.name: f.default_factory() if f.default_factory is not MISSING else f.default
        for f in fields(table)  # type: ignore[arg-type]
    }
    told = [
        f"{key.name} {shown(getattr(table, key.attribute))}"
        for key in keys_of(table)
        if key.name != "name" and getattr(table, key.attribute) != defaults[key.attribute]
    ]
    return "; ".join(told) or "as by default"
