"""From files with DFT results to a model file."""
