"""nftables: the guard that drops ports without compiled policy."""
