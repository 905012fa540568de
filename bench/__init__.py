"""Benchmarks: what it costs, beside others. Never shipped."""
