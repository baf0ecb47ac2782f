"""What a trajectory of a layer says."""
