"""Where the training set of a potential is, as its model file says."""
