"""Which policy a monitor starts with: what it is handed, else the operator's file where it changed, else the last."""

import logging
import os
from pathlib import Path

from hypervigil.host import policyfile
from hypervigil.model.policy import Mode, Policy

log = logging.getLogger(__name__)


def starting_policy(store: policyfile.PolicyStore) -> Policy:
    """The policy to start with; the defaults where there was never a good one.

    A file is taken once for each text of it, so that a restart goes on with what ``hypervigil policy apply`` has put
    since. What ``hypervigil up`` handed over is consumed, and goes before the file: somebody gave it just now.
    """
    found = _from_file(store.file, store) if store.file is not None else None
    handed = _handed(store.handed, store) if store.handed is not None else None
    policy = handed or found or store.load() or Policy(mode=store.unsaid)
    if policy.mode is Mode.MONITOR and store.unsaid is Mode.ENFORCE:
        log.warning("policy.mode mode=%s: the policy says so, and goes before --enforce", policy.mode)
    else:
        log.info("policy.mode mode=%s", policy.mode)
    return policy


def _handed(path: Path, store: policyfile.PolicyStore) -> Policy | None:
    """What ``hypervigil up`` handed over, if it is good; then it is taken away."""
    if not os.path.lexists(path):
        return None
    policy = None
    try:
        text = policyfile.read(path)
        policy = store.apply(text, "the policy that 'hypervigil up' handed over")
    except policyfile.PolicyError as error:
        log.warning("policy.refused error=%s; the last good policy stays in force", error)
    except OSError as error:
        log.warning("policy.not_kept error=%s: it is in force, and read again at the next start", error)
        return policyfile.parse(text, unsaid=store.unsaid)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("policy.not_taken_away error=%s: it will be read again at the next start", error)
    return policy


def _from_file(path: Path, store: policyfile.PolicyStore) -> Policy | None:
    """What the operator's file says, if it is good and other than what was last taken from it."""
    try:
        text = policyfile.read(path)
        if store.has_taken(text):
            return None
        policy = policyfile.parse(text, str(path), unsaid=store.unsaid)
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
