"""Benchmarks: each module asks one question and answers it beside a baseline and the limit."""
