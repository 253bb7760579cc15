"""`report.html`: one self-contained page about what went in, what was left out and what came out.

It is for people and not part of the corpus: it holds the time the work took, so it is not listed in the manifest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from data_prep.manifest import Manifest
from data_prep.pack_stage import PREFIX_BINS, PackedShard
from foreword.files import atomic_write

REPORT_NAME = "report.html"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ name }}: corpus report</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
 table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .2rem .8rem; text-align: right }
 th { border-bottom: 1px solid #999; font-weight: 600 } td:first-child, th:first-child { text-align: left }
 .bars td { padding: 0 .8rem } .bar { background: #4a78b5; height: .8rem; min-width: 1px }
 .bars td:last-child { width: 26rem; text-align: left } code { background: #f2f2f2; padding: 0 .2rem }
</style></head><body>
<h1>{{ name }}</h1>
<p>{{ "{:,}".format(documents) }} documents, {{ "{:,}".format(tokens) }} tokens in rows of {{ sequence_length }} + 1,
tokenizer <code>{{ tokenizer.name }}</code> ({{ tokenizer.kind }}, {{ "{:,}".format(tokenizer.vocab_size) }} ids),
packing <code>{{ packing.policy }}</code>, seed {{ seed }}.</p>
<h2>Splits</h2>
<table><tr><th>split</th><th>shards</th><th>rows</th><th>documents</th><th>cut</th><th>tokens</th><th>targets</th>
<th>padding</th></tr>
{% for split, s in splits.items() %}<tr><td>{{ split }}</td><td>{{ s.shards | length }}</td>
<td>{{ "{:,}".format(s.rows) }}</td><td>{{ "{:,}".format(s.documents) }}</td>
<td>{{ "{:,}".format(s.cut_documents) }}</td><td>{{ "{:,}".format(s.tokens) }}</td>
<td>{{ "{:,}".format(s.targets) }}</td>
<td>{{ "{:.3f} %".format(100 * s.padding / (s.tokens + s.padding)) }}</td></tr>
{% endfor %}</table>
<h2>Sources</h2>
<table><tr><th>source</th><th>kind</th><th>prefix</th><th>files</th><th>records</th><th>documents</th><th>tokens</th>
<th>text MB</th><th>bytes per token</th></tr>
{% for s in sources %}<tr><td>{{ s.name }}</td><td>{{ s.kind }}</td><td>{{ s.prefix.policy }}</td>
<td>{{ s.files | length }}</td><td>{{ "{:,}".format(s.records) }}</td><td>{{ "{:,}".format(s.documents) }}</td>
<td>{{ "{:,}".format(s.tokens) }}</td><td>{{ "{:,.1f}".format(s.text_bytes / 1e6) }}</td>
<td>{{ "{:.2f}".format(s.text_bytes / s.tokens) if s.tokens else "-" }}</td></tr>
{% endfor %}</table>
<h2>Left out, by reason</h2>
{% if dropped %}<table><tr><th>source</th><th>reason</th><th>count</th></tr>
{% for source, reason, count in dropped %}<tr><td>{{ source }}</td><td>{{ reason }}</td>
<td>{{ "{:,}".format(count) }}</td></tr>
{% endfor %}</table>{% else %}<p>Nothing.</p>{% endif %}
{% if removed %}<h2>Taken out of documents by quality rules</h2>
<table><tr><th>source</th><th>reason</th><th>lines</th></tr>
{% for source, reason, count in removed %}<tr><td>{{ source }}</td><td>{{ reason }}</td>
<td>{{ "{:,}".format(count) }}</td></tr>
{% endfor %}</table>{% endif %}
{% for title, unit, bars in histograms %}<h2>{{ title }}</h2>
<table class="bars"><tr><th>{{ unit }}</th><th>count</th><th></th></tr>
{% for label, count, share in bars %}<tr><td>{{ label }}</td><td>{{ "{:,}".format(count) }}</td>
<td><div class="bar" style="width: {{ "{:.1f}".format(100 * share) }}%"></div></td></tr>
{% endfor %}</table>
{% endfor %}
<h2>Time</h2>
<table><tr><th>stage</th><th>seconds</th></tr>
{% for stage, s in seconds.items() %}<tr><td>{{ stage }}</td><td>{{ "{:.1f}".format(s) }}</td></tr>
{% endfor %}</table>
<p>{{ "{:,.1f}".format(input_bytes / 1e6 / seconds.total) }} MB of input per second. A continued run counts only its own
time.</p>
</body></html>
"""


def write_report(output: Path, manifest: Manifest, shards: Sequence[PackedShard], seconds: Mapping[str, float]) -> None:
    """Write `output/report.html`.

    Args:
        seconds: stage -> seconds it took, with "total".
    """
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    content = page.render(
        name=output.name,
        documents=sum(split.documents for split in manifest.splits.values()),
        tokens=sum(split.tokens for split in manifest.splits.values()),
        histograms=[
            ("Document lengths", "tokens", _length_bars(shards)),
            ("Prefix lengths", "share of the segment", _prefix_bars(shards)),
        ],
        dropped=[
            (source.name, reason, count) for source in manifest.sources for reason, count in source.dropped.items()
        ],
        removed=[
            (source.name, reason, count) for source in manifest.sources for reason, count in source.removed.items()
        ],
        input_bytes=sum(file.size for source in manifest.sources for file in source.files.values()),
        seconds=seconds,
        **{
            key: getattr(manifest, key)
            for key in ("sequence_length", "tokenizer", "packing", "seed", "splits", "sources")
        },
    )
    with atomic_write(output / REPORT_NAME, "w") as file:
        file.write(content)


def _length_bars(shards: Sequence[PackedShard]) -> list[tuple[str, int, float]]:
    counts = [sum(column) for column in zip(*(shard.document_lengths for shard in shards), strict=True)]
    used = [b for b, count in enumerate(counts) if count]
    return [
        (f"{2**b:,} to {2 ** (b + 1) - 1:,}", counts[b], counts[b] / max(counts)) for b in range(used[0], used[-1] + 1)
    ]


def _prefix_bars(shards: Sequence[PackedShard]) -> list[tuple[str, int, float]]:
    counts = [sum(column) for column in zip(*(shard.prefix_shares for shard in shards), strict=True)]
    step = 100 // PREFIX_BINS
    return [(f"{b * step} to {(b + 1) * step} %", count, count / max(counts)) for b, count in enumerate(counts)]
