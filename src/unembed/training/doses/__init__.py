"""Grids of refinements: objective by weight by seed, compared at equal gain."""
