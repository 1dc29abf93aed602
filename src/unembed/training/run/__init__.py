"""One refinement on the Trainer: from the examples to the refined checkpoint and its summary."""
