"""Trees in and out of a lake: the same bytes, names, modes and times, whatever gets in between."""
