"""Scores of captions, equal to the official COCO evaluation's, without Java.

Each module is named after its function (`from captioner.metrics.score import score`); handing the
functions on from here would hide the modules.
"""
