"""What rounding, noise and temperature do to decisions, before and after."""
