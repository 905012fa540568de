"""The page about a demonstration: whole, self-contained, and true to the table."""

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from lab.demonstrated import Demonstration, checks
from lab.report import html
from tests.unit.lab.story import ATTACKER, STORY

_VOID = {"meta", "br"}


class _Reader(HTMLParser):
    """Fails on tags that are not closed in their order, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(**fields: Any) -> str:
    seen = msgspec.structs.replace(STORY, **fields)
    return html(seen, checks(seen))


def read(text: str) -> str:
    reader = _Reader()
    reader.feed(text)
    assert reader.open == []
    return " ".join(" ".join(reader.text).split())


def test_a_page_says_what_the_table_says() -> None:
    text = read(page())
    assert "All 27 checks as promised" in text
    for check in checks(STORY):
        assert check.decided in text
        assert check.expected in text
    assert "It would be CLEARED if at least half of the tries were answered and then taken up" in text
    assert "hvl-" not in text


def test_a_page_needs_nothing_else() -> None:
    assert re.findall(r"(?:src|href|url|@import)\s*[=(]", page()) == []
    assert "<script" not in page()


def test_what_went_wrong_is_said_first() -> None:
    text = read(page(cases=(), limits=(), residue=("link vnet7",)))
    assert "Not everything went as promised" in text
    assert re.search(r"✗ \d+ of 27 not as promised", text)
    assert "No case was opened." in text
    assert "Nobody was limited." in text


def test_what_others_said_stays_text() -> None:
    case = msgspec.structs.replace(ATTACKER, cause="<script>alert(1)</script>")
    assert "<script" not in page(cases=(case,), host={"kernel": "<script>"}, residue=("<script>",))


def _flood(**fields: Any) -> Any:
    return msgspec.structs.replace(STORY.flood, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"flood": _flood(sent=(), delivered=(), onset_s=None)},
        {"work": {"a": (), "b": (), "c": (), "surge": ()}},
        {"cases": (msgspec.structs.replace(ATTACKER, role=None, decided_at=None, closed_at=None, cause=None),)},
        {"busy": ()},
    ],
    ids=["no flood", "no work", "no verdict", "no CPU"],
)
def test_a_page_of_whatever_was_seen(fields: dict[str, Any]) -> None:
    read(page(**fields))


def test_nothing_is_drawn_outside_of_its_chart() -> None:
    numbers = re.findall(r"[\d.]+,([\d.]+)", " ".join(re.findall(r'points="([^"]*)"', page())))
    assert numbers
    assert all(0 <= float(y) <= 300 for y in numbers)


def test_a_recorded_demonstration_is_drawn_again() -> None:
    again = msgspec.json.decode(msgspec.json.encode(STORY), type=Demonstration)
    assert html(again, checks(again)) == page()
