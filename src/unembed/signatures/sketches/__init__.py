"""Random projections of gradients: the constructions and their randomness."""
