"""Estimates and their intervals: used by every room, known to none."""
