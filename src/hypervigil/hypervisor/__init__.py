"""What touches the hypervisor: ports (Protocols), sensors, plan, enforcer, adapters."""
