"""Trained networks in files, and predictions with them."""
