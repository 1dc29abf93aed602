"""Two models on the same benchmark samples, from the logs of lm-evaluation-harness."""
