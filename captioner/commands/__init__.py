"""`captioner VERB` and `caption`: each verb parses its options and prints, and holds no logic."""
