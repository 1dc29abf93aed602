"""A folder of signatures that can be asked."""
