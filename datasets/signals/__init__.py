"""Data sets of signals on grids: sequences and images."""
