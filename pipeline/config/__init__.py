"""The configuration of a training run: one file for each kind of question it answers, `train` for the whole."""
