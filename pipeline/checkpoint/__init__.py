"""Sharded, topology-free checkpoints.

    run/checkpoints/step_00001000/
      tp_00_dp_000.safetensors ...   what one process held: flat fp32 fragments of weights and of Adam's moments
      foreword.json                  written last: what the run was, where each fragment is, every file's SHA-256

A fragment says which logical parameter, which tensor-parallel slice and which flat range it is; so a checkpoint
needs no conversion to be read by another number of processes, another tensor-parallel size or another ZeRO stage.

Rooms: `meta` (foreword.json); `fragments` (the engine's state as fragments); `save`, with `image` (fragments -> bytes),
`write` (bytes -> a file) and `workspace` (where); `retention`; `find` and `choose` (which checkpoint); `read`, on
`tensor_file` (fragments -> tensors); `restore` (into an engine); `reshape`; `inspect` (for people).
"""
