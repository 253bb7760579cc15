"""The documentation that every Python carries, as JSONL with one document a line: {"text": ..., "source": ...}.

    python demo/stdlib_text.py OUTPUT.jsonl

What comes out: the help topics of the interactive help (`help("LOOPING")`), and the docstrings of the standard
library's modules, classes and functions under their names. The sources are parsed, never imported, so nothing is run.
The order is fixed and equal texts are written once: the same Python gives the same file, byte for byte.
"""

import ast
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

SKIPPED_DIRECTORIES = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
SHORTEST_DOCSTRING = 80  # characters; "Return x." teaches nothing


def documents() -> Iterator[dict[str, str]]:
    """All help topics, then all docstrings, each text once."""
    seen = set()
    for source, text in [*help_topics(), *docstrings(Path(sysconfig.get_path("stdlib")))]:
        if text not in seen:
            seen.add(text)
            yield {"text": text, "source": source}


def help_topics() -> Iterator[tuple[str, str]]:
    """(source, text) of the reference manual's sections that `help()` shows."""
    for name in sorted(topics):
        yield f"help:{name}", topics[name].strip() + "\n"


def docstrings(library: Path) -> Iterator[tuple[str, str]]:
    """(source, text) of the docstrings in the .py files below `library`, in path order and then in line order."""
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if SKIPPED_DIRECTORIES & set(relative.parts):
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # a template or another encoding: not a module that documents anything
        yield from (
            (f"doc:{name}", f"{name}{signature}\n\n{docstring}\n")
            for name, signature, docstring in documented(tree, module)
            if len(docstring) >= SHORTEST_DOCSTRING
        )


def documented(node: ast.AST, name: str, signature: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted name, signature, docstring) of a module, class or function and of what is defined in it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, signature, docstring.strip()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from documented(child, f"{name}.{child.name}")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from documented(child, f"{name}.{child.name}", f"({ast.unparse(child.args)})")


def main() -> None:
    """Write the file named on the command line and say what it holds."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT.jsonl")
    output = Path(sys.argv[1])
    output.parent.mkdir(parents=True, exist_ok=True)
    count = size = 0
    with output.open("w", encoding="utf-8") as file:
        for document in documents():
            file.write(json.dumps(document, ensure_ascii=False) + "\n")
            count, size = count + 1, size + len(document["text"].encode())
    print(f"{output}: {count:,} documents, {size:,} bytes of text")


if __name__ == "__main__":
    main()
