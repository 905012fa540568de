"""Captures run through sensors' counting, both engines and limits: what would have been seen, judged and stopped."""
