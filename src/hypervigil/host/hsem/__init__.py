"""HSEM, the hypervisor security monitor: history, cases, verdicts. Pure; collects nothing; knows neither HREM nor wire."""
