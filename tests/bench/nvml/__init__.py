"""A stand-in for NVIDIA's library, in C."""
