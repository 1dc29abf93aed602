"""The page of a grid of refinements."""
