"""Tests of the measuring layer."""
