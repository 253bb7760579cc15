"""A small set of the standard quality heuristics, off unless configured. Heavy curation stays with datatrove.

thresholds   what can be switched and set: the configuration's `text.quality`
words        the words of a batch of documents as flat arrays
gopher       which documents Gopher's quality and repetition rules leave out
c4           C4's rules for lines and pages
rules        all of them over a batch, with a count for each reason
"""
