"""Hidden states on disk in place of a body, read with head and tail alone in memory."""
