"""Checkpoints, adapters and quantised weights, and one pass of a model over a text."""
