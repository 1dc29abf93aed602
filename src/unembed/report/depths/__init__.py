"""The page of two runs of layers, compared depth by depth."""
