"""The page that leads to those of several runs."""
