"""The pages of rankings, mixtures and indexes."""
