"""Moving the boundaries: a recipe, its run, doses of it, and what disturbs the result."""
