"""Tools that tests of several layers share: real failures made on demand."""
