"""Tests that want a process of their own; `tests/test_alone.py` runs them."""
