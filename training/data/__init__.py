"""From files with calculations to batches of graphs."""
