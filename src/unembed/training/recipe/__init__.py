"""What to train: objectives, weighting, protection, scope."""
