"""What decides and remembers on the host. No collector, no root."""
