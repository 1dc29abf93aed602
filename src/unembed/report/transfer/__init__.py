"""The page of measured transfer."""
