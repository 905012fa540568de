"""Which policy a monitor starts with: what it is handed, else the operator's file where it changed, else the last."""

import logging
from pathlib import Path

from hypervigil.entrypoints.layout import Layout
from hypervigil.host import policyfile
from hypervigil.model.policy import Policy

log = logging.getLogger(__name__)


def starting_policy(layout: Layout, store: policyfile.PolicyStore, file: Path | None) -> Policy:
    """The policy to start with; the defaults (monitor mode) where there was never a good one.

    A file is taken once for each text of it, so that a restart goes on with what ``hypervigil policy apply`` has put
    since. What ``hypervigil up`` handed over is consumed, and goes before the file: somebody gave it just now.
    """
    found = _from_file(file, store) if file is not None else None
    if layout.handed_policy.exists():
        text = layout.handed_policy.read_text(encoding="utf-8")
        found = policyfile.parse(text, "the policy that 'hypervigil up' handed over")
        store.apply(text)
        layout.handed_policy.unlink()
    return found or store.load() or Policy()


def _from_file(path: Path, store: policyfile.PolicyStore) -> Policy | None:
    """What the operator's file says, if it is good and other than what was last taken from it."""
    try:
        text = policyfile.read(path)
        if store.has_taken(text):
            return None
        policy = policyfile.parse(text, str(path))
    except policyfile.PolicyError as error:
        log.warning("policy.refused error=%s; the last good policy stays in force", error)
        return None
    try:
        replaced = store.take(text)
    except OSError as error:
        log.warning("policy.not_kept error=%s: it is in force, and read again at the next start", error)
    else:
        kept = f"; what it replaces is kept in {store.before}" if replaced else ""
        log.info("policy.taken path=%s%s", path, kept)
    return policy
