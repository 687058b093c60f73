"""The command line: what it prints, where it prints it, and how it ends."""
