"""HREM, the hypervisor reliability monitor: what the host observed, as rates; overload. Pure; knows no HSEM."""
