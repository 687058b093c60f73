"""Trees of files and archives, in and out of a lake."""
