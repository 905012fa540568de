"""HSEM, the hypervisor security monitor: history, cases, verdicts. Pure; collects nothing; knows no HREM, no wire."""
