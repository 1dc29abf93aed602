"""Two models on one text: which decisions changed, and whether they were right."""
