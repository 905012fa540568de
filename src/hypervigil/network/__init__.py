"""The three layers of the virtual network compiled to one port policy. Pure."""
