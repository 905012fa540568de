"""HSEM and HREM on one loop: routes sweeps to HREM, reports to HSEM, decisions to journal and enforcer."""
