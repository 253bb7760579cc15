"""Shards -> batches: the order of the rows, and what each token may see."""
