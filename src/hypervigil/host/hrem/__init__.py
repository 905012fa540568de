"""HREM, the hypervisor reliability monitor: what the host observed, as rates; overload and overflow. Pure; knows neither HSEM nor wire."""
