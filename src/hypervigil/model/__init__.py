"""The field's words as frozen values that check themselves.

Standard library only, no I/O, no clock: every other part speaks in these types and none of them is known here.
Times are seconds of ``CLOCK_BOOTTIME`` (it runs through suspend and never steps);
only the journal and people see wall time.
"""
