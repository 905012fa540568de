"""The data plane in Python: what its programs decide and count of a frame, step by step. A test holds it to them."""
