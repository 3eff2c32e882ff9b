"""The study behind `activations.py`: which functions on the gate help, at which length of training."""
