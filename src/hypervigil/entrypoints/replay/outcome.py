"""A replay's result as people and programs read it."""

from typing import Any

from hypervigil.entrypoints.replay.drive import Drive, Outcome
from hypervigil.entrypoints.replay.stations import Station, Stations
from hypervigil.model.status import Evidence


def told(drive: Drive, stations: Stations) -> dict[str, Any]:
    """Each VM's verdict with its times and evidence."""
    nics: dict[str, list[Station]] = {}
    for one in stations.all:
        nics.setdefault(one.name, []).append(one)
    return {name: _vm(outcome, nics.get(name, [])) for name, outcome in drive.outcomes.items()}


def _vm(outcome: Outcome, nics: list[Station]) -> dict[str, Any]:
    case = outcome.gravest
    verdict = case.verdict if case is not None else None
    evidence = verdict.evidence if verdict is not None else case.evidence if case is not None else ()
    return {
        "verdict": str(verdict.role) if verdict is not None else None,
        "class": str(verdict.attack) if verdict is not None else None,
        "level2_s": _round(case.level2_s) if case is not None else None,
        "limit_s": _round(case.limit_s) if case is not None else None,
        "verdict_s": _round(case.verdict_s) if case is not None else None,
        "cause": verdict.cause if verdict is not None else None,
        "target": verdict.target if verdict is not None else None,
        "confidence": verdict.confidence if verdict is not None else None,
        "evidence": [_evidence(one) for one in evidence],
        "cases": len(outcome.cases),
        "verdicts": [str(one.verdict.role) for one in outcome.cases.values() if one.verdict is not None],
        "frames": {
            "sent": outcome.sent,
            "got": outcome.got,
            "after_limit": outcome.after_limit,
            "passed_after_limit": outcome.passed_after_limit,
            "stopped": outcome.stopped,
        },
        "nics": [{"mac": None if nic.made_up else nic.mac.hex(":"), "addresses": list(nic.addresses)} for nic in nics],
    }


def _evidence(one: Evidence) -> dict[str, Any]:
    return {"kind": one.kind, "value": one.value, "baseline": one.baseline, "unit": one.unit, "text": one.text}


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
