"""Graphs, networks, data sets, training and checkpoints."""
