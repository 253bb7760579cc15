"""A run that does not go on is ended with a word about who holds it up, instead of waiting for ever."""
