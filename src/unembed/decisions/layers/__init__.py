"""How a decision forms: what a model's head reads off the residual stream at every depth."""
