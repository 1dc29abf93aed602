"""Weights of sources that together move a head as a target would."""
