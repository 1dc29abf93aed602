"""The page of two models on the same benchmark samples."""
