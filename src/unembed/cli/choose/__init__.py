"""The verbs that choose data: sketch, align, rank, mix, index."""
