"""Raw text -> packed shards of token ids that prove themselves. Never imports torch.

One document's way, in the order of the rooms:

    sources/    files of any kind          -> batches of raw documents (Arrow)
    clean       raw text                   -> normalised text, or a reason to drop it
    tokenizers/ text                       -> token ids
    prefix      a document's parts or a policy -> where its prefix ends
    pack        documents                  -> rows of sequence_length + 1 tokens
    shards      rows                       -> memory-mapped .npy files with hashes

`plan`, `tokenize_stage`, `dedup`, `pack_stage` and `prepare` run these rooms over many processes; `manifest` is what a
finished corpus says about itself.
"""
