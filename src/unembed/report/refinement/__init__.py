"""The page of a refinement."""
