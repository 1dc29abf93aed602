"""The tessellation: what the head decides."""
