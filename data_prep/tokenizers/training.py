"""`foreword tokenizer train`: a sentencepiece model from a seeded sample of a preparation's sources.

What comes in: a `PrepConfig` with `tokenizer_training`. What goes out: a .model at `tokenizer.path`. Promises: memory
is a small multiple of `sample_bytes`, however large the sources are; the sample depends on content and seed alone; the
model is lossless: no Unicode normalisation, no dummy prefix, no white space removed, bytes for what has no piece. (One
character is the exception: U+2581, by which sentencepiece writes a space, comes back as a space.)
"""

import heapq
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece
import xxhash

from data_prep.clean import clean
from data_prep.config import FieldPrefix, PrepConfig, TokenizerTrainingConfig
from data_prep.documents import TokenizedDocuments
from data_prep.sources import BadRecords, module_of
from foreword.console import progress, say
from foreword.errors import ConfigError, DataError
from foreword.files import atomic_write

SENTENCE_BYTES = 2000
"""Documents are cut into sentences of about this size, at line ends; sentencepiece's cost grows with their length."""
TRAINING_THREADS = 4
"""Fixed, because unigram training adds up in the order of its threads; the machine must not change the model."""
EOD_PIECE, PAD_PIECE = "<|endoftext|>", "<pad>"


def train_tokenizer(config: PrepConfig) -> Path:
    """Train and write the model.

    Returns:
        Its path.

    Raises:
        ConfigError: the path is not a .model, it exists, or the vocabulary does not suit the text.
        DataError: bad input, or none.
    """
    path = Path(config.tokenizer.path)
    if path.suffix != ".model":
        raise ConfigError("a sentencepiece model ends in .model", where=f"tokenizer.path={path}", remedy="rename it")
    if path.exists():
        raise ConfigError("the tokenizer exists already", where=path, remedy="delete it to train it anew")
    settings = config.tokenizer_training
    sample = sample_sentences(_documents(config), settings.sample_bytes, config.seed)
    if not sample:
        raise DataError("no text to train on", remedy="check the sources and the text limits")
    say(f"train: {settings.model_type} with {settings.vocab_size:,} pieces on {len(sample):,} sentences")
    model = train_model(sample, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(model)
    return path


def train_model(sentences: list[str], settings: TokenizerTrainingConfig) -> bytes:
    """A sentencepiece model's bytes.

    Raises:
        ConfigError: sentencepiece cannot make such a vocabulary from this text.
    """
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=written,
            model_type=settings.model_type,
            vocab_size=settings.vocab_size,
            character_coverage=settings.character_coverage,
            split_digits=settings.split_digits,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=8 * SENTENCE_BYTES,
            unk_id=0,
            bos_id=-1,
            eos_id=1,
            eos_piece=EOD_PIECE,
            pad_id=2,
            pad_piece=PAD_PIECE,
            num_threads=TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        message = str(error).rsplit("] ", maxsplit=1)[-1].strip()
        raise ConfigError(
            f"sentencepiece cannot train this model: {message}",
            where=f"tokenizer_training.vocab_size={settings.vocab_size}",
            remedy="choose another vocab_size, or give more text",
        ) from None
    return written.getvalue()


def sample_sentences(documents: Iterable[str], sample_bytes: int, seed: int) -> list[str]:
    """The sentences with the smallest keyed hashes that fit into `sample_bytes`, in the order of their hashes.

    Each sentence has the same chance; the result depends on nothing but the documents' text and the seed. Equal
    sentences count once.
    """
    kept: list[tuple[int, str]] = []  # a heap with the largest hash first (negated)
    seen: set[int] = set()
    size = 0
    limit: int | None = None  # hashes at or above it did not fit earlier, so they never will
    for document in documents:
        for sentence in _sentences(document):
            content = sentence.encode()
            key = xxhash.xxh3_64_intdigest(content, seed)
            if key in seen or (limit is not None and key >= limit):
                continue
            seen.add(key)
            heapq.heappush(kept, (-key, sentence))
            size += len(content)
            while size > sample_bytes and len(kept) > 1:
                largest, dropped = heapq.heappop(kept)
                limit = -largest
                seen.discard(limit)
                size -= len(dropped.encode())
    return [sentence for _, sentence in sorted(kept, reverse=True)]


def _sentences(document: str) -> Iterator[str]:
    """Stretches of whole lines of about `SENTENCE_BYTES`; a longer line is cut."""
    pending: list[str] = []
    size = 0
    for line in document.splitlines(keepends=True):
        for begin in range(0, len(line), SENTENCE_BYTES):
            piece = line[begin : begin + SENTENCE_BYTES]
            if pending and size + len(piece) > SENTENCE_BYTES:
                yield "".join(pending)
                pending, size = [], 0
            pending.append(piece)
            size += len(piece)
    if pending:
        yield "".join(pending)


def _documents(config: PrepConfig) -> Iterator[str]:
    """The cleaned text of every source, as the preparation will see it."""
    bad = BadRecords(refuse=config.on_bad_record == "refuse")
    inputs = [(source, file) for source in config.sources for file in module_of(source.kind).list_files(source)]
    total_bytes = sum(file.size_bytes for _, file in inputs)
    done = 0
    with progress("sample", total_bytes / 1e6, "MB") as shown:
        for source, file in inputs:
            module = module_of(source.kind)
            for begin, end in module.cut(file.path, file.size_bytes, max(file.size_bytes, 1)):
                for batch in module.read(source, file.path, begin, end, bad):
                    if isinstance(batch, TokenizedDocuments):
                        raise ConfigError("it has ids and no text", where=source.name, remedy="train on other sources")
                    documents, _, _ = clean(batch, config.text, judged=not isinstance(source.prefix, FieldPrefix))
                    yield from documents.texts.to_pylist()
                    shown.update(min(done + documents.texts.nbytes, total_bytes) / 1e6)
            done += file.size_bytes
            shown.update(done / 1e6)
