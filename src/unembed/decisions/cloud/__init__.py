"""The shape of the cloud of states at each depth: spectrum, dimension, curvature, controls."""
