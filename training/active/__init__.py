"""Active learning: which structures are worth a calculation, and the rounds that this makes."""
