"""Regular grids: the convolution on them, and grids as graphs."""
