"""How a text would move a whole model: sketches of the gradients of all its linear modules."""
