"""The lake: log, index, writer, reader, housekeeping; most of it on the memory volume."""
