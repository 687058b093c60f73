"""Bytes nobody wrote, fed to everything that decodes: an error of ours or the right value."""
