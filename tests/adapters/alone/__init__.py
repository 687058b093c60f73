"""Tests that want a process of their own; `tests/adapters/test_alone.py` runs them."""
