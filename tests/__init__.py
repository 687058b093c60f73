"""Tests, one folder a layer: the lowest folder that fails holds the cause."""
