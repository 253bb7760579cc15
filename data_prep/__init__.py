"""Raw text -> packed shards of token ids that prove themselves. Never imports torch.

One document's way, in the order of the rooms:

    sources/    files of any kind          -> batches of raw documents (Arrow)
    clean       raw text                   -> normalised text, or a reason to drop it
    tokenizers/ text                       -> token ids
    prefix      a document's parts or a policy -> where its prefix ends
    pack        documents                  -> rows of sequence_length + 1 tokens
    shards      rows                       -> .npy files with hashes, and back, through `mapped` memory

`prepare` and `stages` run these rooms over many processes and machines, with `plan` (what is to be done), `work`
(where, and who may), `tokenize_stage` and `first_stage`, `dedup`, `windows`, `pack_stage` and `assemble`; `predict`
runs them on a sample. `manifest` is what a finished corpus says about itself, and `documents_table` leads from a row
back to its documents.
"""
