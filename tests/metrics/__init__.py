"""Metrics: each said once, counted right, also over processes."""
