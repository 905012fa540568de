"""What pulses and trials share: after each of them everybody is released, calm again, and has the history as it was."""

import time
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.guests import DOMAIN_PREFIX
from lab.paths import STATE, make
from lab.scratch import say
from lab.stage import Stage
from lab.watched import Product

CALM_S = 1.0
"""Nothing may be amiss for so long before the next round."""
_CALM_WITHIN_S = 40.0
_LOOK_EVERY_S = 0.5
_SAMPLES = 40
_WARM_WITHIN_S = 120.0
_RECORDS = 400


def history_path() -> Path:
    """Where the history of warm-up lies while rounds run."""
    return make(STATE) / "history"


def warm_up(stage: Stage, seconds: float) -> None:
    """Let the guests only work, until the product knows them; then keep what it has learned."""
    end = time.monotonic() + seconds
    time.sleep(seconds)
    if stage.product is None:
        return
    while min(vm.samples for vm in stage.product.vms()) < _SAMPLES:
        if time.monotonic() > end + _WARM_WITHIN_S:
            seen = ", ".join(f"{vm.name} {vm.samples} at {vm.level}" for vm in stage.product.vms())
            raise LabError(f"the product has fewer than {_SAMPLES} samples of a guest after warm-up: {seen}")
        time.sleep(2.0)
    for vm in stage.product.vms():
        if vm.level != "level1" or vm.limits:
            say(f"{vm.name} is at {vm.level} with {vm.limits} limits at the end of warm-up")
    release(stage.product)
    stage.product.ask("history", "export", str(history_path()))


def release(product: Product) -> float:
    """Release who is not at Level 1 and unlimited, until all are calm; how long that took."""
    began = time.monotonic()
    calm_since: float | None = None
    while True:
        uneasy = [vm for vm in product.vms() if vm.level != "level1" or vm.limits]
        now = time.monotonic()
        if not uneasy:
            calm_since = calm_since or now
            if now - calm_since >= CALM_S:
                return now - began
        elif now - began > _CALM_WITHIN_S:
            raise LabError(f"{', '.join(vm.name for vm in uneasy)} did not calm down within {_CALM_WITHIN_S:.0f} s")
        else:
            calm_since = None
            for vm in uneasy:
                if vm.name.startswith(DOMAIN_PREFIX):
                    product.call("release", vm.name)
        time.sleep(_LOOK_EVERY_S)


def recall(product: Product) -> None:
    """Give every VM the history that it had after warm-up, so that one round teaches nothing about the next."""
    product.ask("history", "import", str(history_path()))


def known(product: Product, since_wall_s: float) -> list[Any]:
    """What the judge knew and decided at each opening and verdict since then, by the journal; newest last."""
    records = product.ask("journal", "show", "--last", str(_RECORDS))["records"]
    return [
        {key: record[key] for key in ("wall_at", "type", "case", "vm", "body")}
        for record in records
        if record["wall_at"] >= since_wall_s and record["kind"] in {"fact", "decision", "level"}
    ]
