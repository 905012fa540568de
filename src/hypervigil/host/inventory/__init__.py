"""Which VM owns which port and address, from libvirt and policy. Pure."""
