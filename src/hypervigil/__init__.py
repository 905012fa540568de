"""Hypervigil: tells attacking virtual machines from attacked ones, on the host, without reading tenants' data.

Sensors see, detectors conclude, engines decide, the enforcer acts, the journal remembers.
"""

__version__ = "0.1.0"
