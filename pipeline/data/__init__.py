"""Shards -> batches: which row stands where, how it is trained, and what each token may see.

One step's way, in the order of the rooms:

    corpora     the configuration        -> open corpora and their weights, or what is wrong with them
    blend       a position of the run    -> the corpus whose turn it is, and its how-manieth row
    order       that number              -> a row, and the corpus's epoch
    segments    rows                     -> one table of all their segments
    objective   segments                 -> each with its objective, and where its prefix ends
    masking     masked segments          -> the tokens that are predicted, and what is read in their place
    batch       tokens and segments      -> tensors: mask, loss mask, labels, positions

`places` says where a position of the run leads, `rows` goes this way for any positions, `share` says which of a step's
are this rank's, and `loader` is a step ahead.
"""
