"""Which text to train on: rankings, mixtures, measured transfer, baselines, an index."""
