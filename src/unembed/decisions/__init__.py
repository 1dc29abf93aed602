"""What the head decides at each position: margins, facets, token classes."""
