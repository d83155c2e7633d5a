"""Implementations of the convolution on points, each in the folder of its name."""
