"""The commands of the pipeline, one file for each kind of thing a user does."""
