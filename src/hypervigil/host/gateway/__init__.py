"""The gateway: the only reader of guests' bytes. No rights; a guest can waste its own budget and nobody else's time."""
