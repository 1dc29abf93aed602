"""How a task would move the head, before anything is trained."""
