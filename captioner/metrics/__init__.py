"""Scores of captions, equal to those of the official COCO evaluation, without Java.

Each module is named after its function (`from captioner.metrics.score import score`); handing the
functions on here would hide the modules.
"""
