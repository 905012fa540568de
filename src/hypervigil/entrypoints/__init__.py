"""Composition roots: the only place where parts meet."""
