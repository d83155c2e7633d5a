"""The backends of the neighbour search, named as in `backend=`."""
