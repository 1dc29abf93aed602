"""Slow, obvious twins of what the package computes, which it never imports."""
