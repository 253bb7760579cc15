"""The configuration of a preparation: what `foreword prep CONFIG` and `foreword tokenizer train CONFIG` read.

What comes in: YAML values. What goes out: an immutable `PrepConfig`. Promise: what cannot be honoured together is
refused here, before any work; `result_config` is the part that decides the corpus' bytes.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from data_prep.quality.thresholds import QualityConfig
from foreword.config import Section

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class NoPrefix(Section):
    """Causal: no token sees ahead."""

    policy: Literal["none"] = "none"


class UniformPrefix(Section):
    """A prefix length drawn uniformly from [1, length) for each piece of a document."""

    policy: Literal["uniform"]


class FractionPrefix(Section):
    """The same fraction of each piece, rounded down to whole tokens."""

    policy: Literal["fraction"]
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)]


class FieldPrefix(Section):
    """Boundaries that the records bring: two fields, or the turns of a dialogue.

    Attributes:
        prefix_field, target_field: the record's fields that hold the two parts (for example prompt and completion).
        turns_field: instead of the two: a list of turns; each turn after the first is a target after its history.
        turn_text_field: the text's key when a turn is an object and not a string.
        too_long: a document that does not fit a row is dropped, or its prefix is cut from the left.
    """

    policy: Literal["field"]
    prefix_field: str | None = None
    target_field: str | None = None
    turns_field: str | None = None
    turn_text_field: str | None = None
    too_long: Literal["drop", "cut_prefix"] = "cut_prefix"

    @model_validator(mode="after")
    def _one_way_to_name_the_parts(self) -> "FieldPrefix":
        pair = (self.prefix_field is not None) + (self.target_field is not None)
        if (pair, self.turns_field is not None) not in {(2, False), (0, True)}:
            raise ValueError("the field policy needs prefix_field and target_field, or turns_field")
        if self.turn_text_field is not None and self.turns_field is None:
            raise ValueError("turn_text_field goes with turns_field")
        return self


PrefixConfig = Annotated[NoPrefix | UniformPrefix | FractionPrefix | FieldPrefix, Field(discriminator="policy")]


class _Source(Section):
    """What every kind of source has.

    Attributes:
        name: shown in the manifest and in reports; by default the kind and its number in the list.
        weight: how often each training document is taken: 2 is twice, 0.5 is every second one, chosen by content.
        prefix: the prefix policy of this source; by default the configuration's own.
    """

    name: str | None = None
    weight: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    prefix: PrefixConfig | None = None


class _FileSource(_Source):
    """A source that consists of files.

    Attributes:
        path: a path, a glob or a URL (s3://, gs://, https://, hf://, ...), or a list of them.
    """

    path: str | list[str]


class KeepingSource(_Source):
    """A source whose records have more than text, of which something can be kept beside the shards.

    Attributes:
        id_field: the field that identifies a record, a string or an integer.
        keep_fields: other fields to keep; a record may lack them.
    """

    id_field: str | None = None
    keep_fields: list[str] = Field(default_factory=list)

    @property
    def keeps(self) -> bool:
        """Whether anything of the records is kept beside their text."""
        return self.id_field is not None or bool(self.keep_fields)


class RecordSource(KeepingSource):
    """A source whose records have named fields, so that it can have the field policy.

    Attributes:
        text_field: the field that holds the text (unused with the field policy).
    """

    text_field: str = "text"


class JsonlSource(_FileSource, RecordSource):
    """JSON Lines: one object a line; plain, .gz, .zst, .bz2 or .xz."""

    kind: Literal["jsonl"]


class ParquetSource(_FileSource, RecordSource):
    """Parquet: one record a row."""

    kind: Literal["parquet"]


class TextSource(_FileSource):
    """Text files in UTF-8; plain, .gz, .zst, .bz2 or .xz.

    Attributes:
        separator: what stands between two documents of a file; without one a file is a document.
    """

    kind: Literal["text"]
    separator: Annotated[str, Field(min_length=1)] | None = None


class WetSource(_FileSource, KeepingSource):
    """WET, the extracted text of Common Crawl; plain or .gz. The headers of its records can be kept."""

    kind: Literal["wet"]


class WarcSource(_FileSource, KeepingSource):
    """WARC, the web as it was fetched; plain or .gz. The headers of its records can be kept."""

    kind: Literal["warc"]


class HuggingFaceSource(RecordSource):
    """A Hugging Face dataset, streamed.

    Attributes:
        dataset: a name on the hub, a directory with data files, or one that `save_to_disk` wrote.
        subset: the dataset's configuration, when it has several.
        split: one of its splits, by its name alone.
        revision: a branch, tag or commit on the hub; by default the newest commit at the beginning.
    """

    kind: Literal["huggingface"]
    dataset: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None


class MegatronSource(_FileSource):
    """Megatron-LM's and GPT-NeoX's .bin and .idx: tokenized already, by the tokenizer that the preparation names.

    Attributes:
        path: as of other files; the endings .bin and .idx may be left out.
        vocab_size: of the tokenizer that made the ids; it has to be the configured one, and every id is checked.
    """

    kind: Literal["megatron"]
    vocab_size: PositiveInt


AnySource = JsonlSource | ParquetSource | TextSource | WetSource | WarcSource | HuggingFaceSource | MegatronSource
SourceConfig = Annotated[AnySource, Field(discriminator="kind")]


class TextConfig(Section):
    """What is done to text, and which documents are too short or too long.

    Attributes:
        normalization: Unicode normalisation form, "nfc" or "none".
        control_characters: C0 and C1 controls other than tab, newline and carriage return: "remove" or "keep".
        min_chars, max_chars: bounds on a document's characters, after normalisation.
        min_tokens, max_tokens: bounds on its tokens, without the end-of-document token.
        quality: the standard heuristics of Gopher and C4, off unless named.
    """

    normalization: Literal["nfc", "none"] = "nfc"
    control_characters: Literal["remove", "keep"] = "remove"
    min_chars: PositiveInt = 1
    max_chars: PositiveInt | None = None
    min_tokens: PositiveInt = 1
    max_tokens: PositiveInt | None = None
    quality: QualityConfig = QualityConfig()


class TokenizerConfig(Section):
    """The tokenizer that encodes the text.

    Attributes:
        path: a sentencepiece .model, a tokenizer.json, or a directory with GPT-2's two files or one of the former.
        eod: the token that ends a document, when it is not the one found by itself.
        pad: the token that fills padding, when it is not the one found by itself.
    """

    path: str
    eod: str | None = None
    pad: str | None = None


class TokenizerTrainingConfig(Section):
    """A sentencepiece model from a seeded sample of the sources; it is written to `tokenizer.path`.

    Attributes:
        model_type: "bpe" or "unigram", both with byte fallback.
        vocab_size: pieces, the 256 bytes and the special ones included.
        sample_bytes: text to train on, at most; the memory taken is a small multiple of it.
        character_coverage: share of characters that get a piece of their own; the rest goes through bytes.
        split_digits: each digit is its own piece.
    """

    model_type: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Annotated[int, Field(ge=300)] = 8192
    sample_bytes: PositiveInt = 32_000_000
    character_coverage: Annotated[float, Field(gt=0.9, le=1.0)] = 0.9995
    split_digits: bool = False


class PackingConfig(Section):
    """How documents share rows.

    Attributes:
        policy: "best_fit" (best-fit decreasing; a document that fits a row is never cut) or "concat" (one after the
            other, cut wherever a row ends).
    """

    policy: Literal["best_fit", "concat"] = "best_fit"


class SplitsConfig(Section):
    """Shares of the documents held out, chosen by content hash; the rest is the train split."""

    valid: Fraction = 0.0
    test: Fraction = 0.0

    @model_validator(mode="after")
    def _something_is_left(self) -> "SplitsConfig":
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together leave nothing for train")
        return self


class PrepConfig(Section):
    """A whole preparation.

    Attributes:
        output: the corpus directory.
        sources: what is read, in this order.
        tokenizer, tokenizer_training, text, prefix, packing, splits: see their classes.
        sequence_length: inputs per row; a row holds one token more.
        seed: keys the splits, the sampled prefixes and the tokenizer's sample.
        write_documents: write which documents each row consists of, with source and content hash; sources that keep an
            id or fields switch it on by themselves.
        deduplicate: drop exact copies (after normalisation), keeping the first.
        on_bad_record: "refuse" stops at a record that cannot be used; "count" leaves it out and counts it by reason.
        workers: processes; never changes the result.
        shard_tokens: tokens per shard, about.
        slice_bytes: input per unit of work, about; null cuts the input into some dozens, so that processes finish
            together, but no larger than 64 MiB; never changes the result.
    """

    output: str
    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    tokenizer: TokenizerConfig
    tokenizer_training: TokenizerTrainingConfig = TokenizerTrainingConfig()
    text: TextConfig = TextConfig()
    prefix: PrefixConfig = NoPrefix()
    packing: PackingConfig = PackingConfig()
    splits: SplitsConfig = SplitsConfig()
    sequence_length: Annotated[int, Field(ge=1)] = 1024
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1234
    write_documents: bool = False
    deduplicate: bool = True
    on_bad_record: Literal["refuse", "count"] = "refuse"
    workers: PositiveInt = 1
    shard_tokens: PositiveInt = 2**24
    slice_bytes: PositiveInt | None = None

    @model_validator(mode="after")
    def _settle_sources(self) -> "PrepConfig":
        settled = [
            source.model_copy(
                update={"name": source.name or f"{source.kind}-{number}", "prefix": source.prefix or self.prefix}
            )
            for number, source in enumerate(self.sources)
        ]
        for source in settled:
            if isinstance(source.prefix, FieldPrefix) and not isinstance(source, RecordSource):
                raise ValueError(f"{source.name}: {source.kind} has no fields, so it cannot have the field policy")
        names = [source.name for source in settled]
        if len(set(names)) < len(names):
            raise ValueError(f"two sources have the same name: {', '.join(map(str, names))}")
        if self.packing.policy == "concat" and any(isinstance(source.prefix, FieldPrefix) for source in settled):
            raise ValueError("concat packing cuts documents anywhere, field boundaries need best_fit packing")
        object.__setattr__(self, "sources", settled)  # frozen for everybody else
        return self

    @property
    def documents_are_written(self) -> bool:
        """Whether each shard gets its table of documents."""
        return self.write_documents or any(
            isinstance(source, KeepingSource) and source.keeps for source in self.sources
        )

    def result_config(self) -> dict[str, Any]:
        """The values that decide the corpus: not where it lies, how it is computed or how a tokenizer is trained."""
        return self.model_dump(mode="json", exclude={"output", "workers", "slice_bytes", "tokenizer_training"})


def prefix_policy(source: _Source) -> NoPrefix | UniformPrefix | FractionPrefix | FieldPrefix:
    """The policy of a source in a validated `PrepConfig`, where it is always settled."""
    assert source.prefix is not None
    return source.prefix
