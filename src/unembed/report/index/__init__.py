"""The page of an index: its signatures on a plane."""
