"""From caption files and texts to batches: records, the feature cache, streams of tokens."""
