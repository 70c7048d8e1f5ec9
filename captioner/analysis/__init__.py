"""What a trained model does inside: gradients and gates, and neurons that a person can read."""
