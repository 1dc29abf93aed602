"""The page of a run of layers: what every depth would say, and how decisions form."""
