"""The append-only, hash-chained record of every fact that decided, decision and act."""
