"""libvirt: inventory and statistics (read-only), resource limits (enforcer only)."""
