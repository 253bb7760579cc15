"""Megatron-LM's .bin and .idx, written by hand."""

import struct

import numpy as np

CODES = {"u1": 1, "i1": 2, "<i2": 3, "<i4": 4, "<i8": 5, "<u2": 8}


def write_megatron(path, documents, kind="<u2", modes=False):
    """Documents, each a list of sequences, which are lists of ids, as Megatron-LM lays them out."""
    sequences = [sequence for document in documents for sequence in document]
    lengths = np.array([len(sequence) for sequence in sequences], "<i4")
    begins = (np.cumsum(lengths, dtype="<i8") - lengths) * np.dtype(kind).itemsize
    indices = np.cumsum([0, *map(len, documents)], dtype="<i8")
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, CODES[kind], len(sequences), len(indices))
    parts = [header, lengths.tobytes(), begins.astype("<i8").tobytes(), indices.tobytes()]
    path.with_suffix(".idx").write_bytes(b"".join(parts) + (bytes(len(sequences)) if modes else b""))
    path.with_suffix(".bin").write_bytes(np.array([i for sequence in sequences for i in sequence], kind).tobytes())
    return {"kind": "megatron", "path": str(path)}
