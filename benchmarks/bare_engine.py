"""What the engine alone does: a JSON Lines file in, the ids of all its documents in memory, nothing written.

    python benchmarks/bare_engine.py FILE.jsonl TOKENIZER.json

Prints the numbers of documents and tokens.
"""

import sys
from pathlib import Path

import gigatoken

if __name__ == "__main__":
    tokenizer = gigatoken.Tokenizer.from_json(Path(sys.argv[2]).read_text(encoding="utf-8"))
    encoded = tokenizer.encode_files(gigatoken.JsonlFileSource([sys.argv[1]]), parallel=True)
    print(len(encoded), len(encoded.layout.content.data))
