"""How alike two texts would move the head: cosines with their errors."""
