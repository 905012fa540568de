"""Lines of the protocol: written by Python's own ``repr``, read by a parser for just what the host may say. Pure."""

from __future__ import annotations

LONGEST = 2048
"""Bytes of a line from the host."""
LONGEST_OUT = 16384
"""Bytes of a line to the host, with its end."""
_DEPTH = 4
_DIGITS = "-0123456789"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/@+-")


def plain(text: str, longest: int = 32) -> str:
    """A word as the protocol takes it: everything else becomes ``_``."""
    return "".join([c if c in _PLAIN else "_" for c in text[:longest]])


def encode(message: list[object]) -> bytes:
    """One line with its end, of whole numbers, plain words and lists or tuples of them.

    The ``repr`` of such a list is JSON but for its quotes, spaces and the brackets of tuples.
    """
    text = repr(message).replace(" ", "").replace("'", '"').replace("(", "[").replace(",)", "]").replace(")", "]")
    return text.encode("ascii", "replace") + b"\n"


def parse(untrusted_line: bytes) -> list[object]:
    """Whole numbers, plain words and lists of them; ``ValueError`` for anything else."""
    if len(untrusted_line) >= LONGEST:
        raise ValueError("too long")
    text = untrusted_line.decode("ascii").strip()
    value, at = _value(text, 0, 0)
    if at != len(text) or not isinstance(value, list):
        raise ValueError("not one list")
    return value


def _value(text: str, at: int, depth: int) -> tuple[object, int]:
    """The value that begins at ``at``, and where it ends."""
    first = text[at : at + 1]
    if first == "[":
        return _list(text, at + 1, depth + 1)
    if first == '"':
        end = text.find('"', at + 1)
        word = text[at + 1 : end]
        if end < 0 or not _PLAIN.issuperset(word):
            raise ValueError("not a plain word")
        return word, end + 1
    end = at
    while text[end : end + 1] in _DIGITS and end < len(text):
        end += 1
    if end - at > 20:
        raise ValueError("too large a number")
    return int(text[at:end]), end


def _list(text: str, at: int, depth: int) -> tuple[list[object], int]:
    """The items up to the bracket that ends them."""
    if depth > _DEPTH:
        raise ValueError("too deep")
    items: list[object] = []
    if text[at : at + 1] == "]":
        return items, at + 1
    while True:
        item, at = _value(text, at, depth)
        items.append(item)
        separator = text[at : at + 1]
        at += 1
        if separator == "]":
            return items, at
        if separator != ",":
            raise ValueError("no list")
