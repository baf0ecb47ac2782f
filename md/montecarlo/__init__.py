"""Monte Carlo: atoms of an alloy change places, at many temperatures at a time."""
