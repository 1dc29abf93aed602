"""Pictures of the cells around a decision: planes through hidden space, cut exactly."""
