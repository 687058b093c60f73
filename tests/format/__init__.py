"""Bytes to values and back: whatever the bytes are, the answer is right or it is an error."""
