"""Predictions of a model and their scores; comparison of two systems; likelihood."""
