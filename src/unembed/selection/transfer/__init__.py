"""Measured transfer, and how well scores foresaw it."""
