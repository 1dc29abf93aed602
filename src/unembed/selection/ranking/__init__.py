"""Sources in order of what they promise a target."""
