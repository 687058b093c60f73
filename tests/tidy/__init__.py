"""Style as a test: checkers are pure functions on source text, each tried on a bad sample."""
