"""The training loop, validations, checkpoints and optimisers, on top of Lightning."""
