"""Data sets of meshes and point clouds."""
