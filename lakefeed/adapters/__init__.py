"""Adapters: each answers to one outside library, and none imports another."""
