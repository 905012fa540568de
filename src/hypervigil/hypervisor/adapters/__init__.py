"""The outside world's real interfaces behind our Protocols."""
