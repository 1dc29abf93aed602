"""What a run will take before it is begun: seconds, memory and disk, from shapes and rates."""
