"""Where a model's weights are put: one device, several, or several processes."""
