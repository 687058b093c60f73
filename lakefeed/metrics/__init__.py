"""Prometheus metrics: every one declared once, filled from the stats of the layers below."""
