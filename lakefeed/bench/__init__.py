"""Measuring: formulas, workloads, emulated and real accelerators, volumes, reports."""
