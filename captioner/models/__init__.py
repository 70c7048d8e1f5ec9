"""The captioner and the language model, and the directories that hold them."""
