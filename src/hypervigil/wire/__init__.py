"""Frames and codecs between processes: msgpack with a schema, bounded in size. No I/O here."""
