"""VM reliability monitor: the guest's load against its capacity. Pure."""
