"""Training: how the weights that ship were made. Needs the `train` extra; importing these modules does not."""
