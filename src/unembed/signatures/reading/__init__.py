"""From a text to its signature, in one pass of the model."""
