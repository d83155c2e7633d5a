"""Figures with matplotlib (`figures`) and interactive pages (`interactive`)."""
