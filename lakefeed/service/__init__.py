"""The packing service: inbox, compaction, garbage collection and verification as one daemon."""
