"""Figures as PNG (`figures`) and interactive pages (`interactive`)."""
