"""Moving the boundaries after training, and what it costs."""
