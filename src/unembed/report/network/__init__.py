"""The page of alignments along a network: where tasks are alike, and what counts."""
