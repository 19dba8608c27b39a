"""Plain-Python reference of the wire formats, for tests and for decoding captures."""
