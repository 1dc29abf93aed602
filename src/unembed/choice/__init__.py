"""Which data to train on: sources ranked, mixed, routed and kept, and what came of it."""
