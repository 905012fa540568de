"""How people say times: ``10m``, ``1h30m``, ``2026-11-23T18:00``, ``18:00``. Pure; the present is handed in."""

import re
from datetime import datetime, timedelta

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
MAX_DURATION_S = 366 * 86400.0


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10m``, ``1h30m``, ``2d``; ``ValueError`` with one sentence otherwise."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    else:
        raise ValueError(f"'{text}' is not a duration: write for example 90s, 10m, 1h30m or 2d")
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(f"'{text}' is not between a moment and a year: every limit and exemption has an end")
    return seconds


def parse_until(text: str, now: datetime) -> float:
    """Seconds from ``now`` until a clock time (its next occurrence), a date and time, or a duration."""
    for form in ("%H:%M", "%H:%M:%S"):
        try:
            clock = datetime.strptime(text, form)  # noqa: DTZ007 - a bare clock time is the operator's own zone, as now is
        except ValueError:
            continue
        then = now.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
        if then <= now:
            then += timedelta(days=1)
        return (then - now).total_seconds()
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return parse_duration(text)
    if then.tzinfo is None:
        then = then.replace(tzinfo=now.tzinfo)
    seconds = (then - now).total_seconds()
    if seconds <= 0:
        raise ValueError(f"'{text}' is in the past: give a time to come")
    return seconds
