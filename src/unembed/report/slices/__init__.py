"""Pictures of the cells around a decision: a map of tokens, by hand for pages and as a figure."""
