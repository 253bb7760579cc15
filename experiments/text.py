"""The experiments' text: the documentation in the Python modules that this project itself needs, as JSON Lines.

    python experiments/text.py DIRECTORY

What comes out: DIRECTORY/stdlib.jsonl, the text of the demo, and DIRECTORY/libraries.jsonl, the docstrings of a few
libraries under their names, equal texts once. The same Python with the versions in constraints.txt gives the same
files.
"""

import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from stdlib_text import docstrings, documents  # of the demo, which is no package

from foreword.files import atomic_write

LIBRARIES = ("datasets", "matplotlib", "networkx", "numpy", "pandas", "sympy", "torch")
LONGEST_DOCSTRING = 20_000  # characters; tables of constants teach nothing


def library_documents() -> Iterator[dict[str, str]]:
    """Of all libraries, each text once."""
    seen = set()
    for library in LIBRARIES:
        spec = importlib.util.find_spec(library)
        if spec is None or spec.origin is None:
            sys.exit(f"experiments: {library} is not installed; run this in the environment that `make` sets up")
        for source, text in docstrings(Path(spec.origin).parent):
            if text not in seen and len(text) <= LONGEST_DOCSTRING:
                seen.add(text)
                yield {"text": text, "source": source.replace("doc:", f"doc:{library}.", 1)}


def main() -> None:
    """Write both files."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # of parsing other people's modules
    for name, found in (("stdlib", documents()), ("libraries", library_documents())):
        count = size = 0
        with atomic_write(directory / f"{name}.jsonl", "w") as file:
            for document in found:
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
                count, size = count + 1, size + len(document["text"].encode())
        sys.stderr.write(f"{name}: {count:,} documents, {size:,} bytes of text\n")


if __name__ == "__main__":
    main()
