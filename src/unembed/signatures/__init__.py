"""How a text would move a model: the Fisher of the head's gradients as a small vector."""
