"""Public tasks on both models, by lm-evaluation-harness."""
