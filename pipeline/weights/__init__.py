"""Weights apart from a run: their directory, what holds any, and the way from and to Hugging Face."""
