"""Which loader delivers raw samples fastest, and at what cost? See `__main__`."""
