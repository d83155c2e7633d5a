"""Data sets of whole scans, cut into tiles, whose points are labelled."""
