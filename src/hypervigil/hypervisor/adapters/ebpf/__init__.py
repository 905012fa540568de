"""The eBPF data plane: load, attach, pin, read and write maps."""
