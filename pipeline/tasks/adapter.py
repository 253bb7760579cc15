"""A model as lm-evaluation-harness sees one: registered there as `foreword`.

A prefix model reads the context of a request in both directions, as it was trained; a causal model reads it causally.
The harness knows one process: here every rank runs it alike, the ranks share the work inside of each call, and all of
them have all results.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from data_prep.tokenizers import Tokenizer
from foreword.console import progress
from pipeline.config.objective import PromptReading
from pipeline.distributed.agreement import gather
from pipeline.distributed.parallel import Parallel, initialize
from pipeline.generation import Sampling, generate
from pipeline.generation.text import TextStream
from pipeline.model import GPT2
from pipeline.tasks.requests import Request, likelihoods
from pipeline.weights.pretrained import open_pretrained

DEFAULT_NEW_TOKENS = 256  # the harness's own


@dataclass(frozen=True)
class FreeRequest:
    """A prompt to be continued.

    Attributes:
        prompt: ids.
        new_tokens: at most.
        sampling: how they are chosen.
        stops: texts that end the continuation.
    """

    prompt: tuple[int, ...]
    new_tokens: int
    sampling: Sampling
    stops: tuple[str, ...]


@register_model("foreword")
class ForewordLM(TemplateLM):
    """Answers the harness's three kinds of requests.

    Args:
        model: on this rank's device.
        tokenizer: the model's.
        reading: how contexts are read.
        parallel: this process's place.
        batch_size: requests of a forward pass.
    """

    def __init__(
        self, model: GPT2, tokenizer: Tokenizer, reading: PromptReading, parallel: Parallel, batch_size: int = 8
    ) -> None:
        super().__init__()
        self.model, self.reading, self.parallel = model, reading, parallel
        self._tokenizer, self._batch_size = tokenizer, batch_size
        self._device = parallel.device

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> "ForewordLM":
        """For `lm_eval.simple_evaluate(model="foreword", model_args="pretrained=RUN,causal=true")`."""
        pretrained = open_pretrained(Path(arg_dict["pretrained"]))
        parallel = initialize()
        reading: PromptReading = "causal" if arg_dict.get("causal") else pretrained.reads_prompts
        batch_size = str((additional_config or {}).get("batch_size"))
        return cls(
            pretrained.load_model().to(parallel.device),
            pretrained.load_tokenizer(),
            reading,
            parallel,
            int(batch_size) if batch_size.isdigit() else 8,
        )

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "ForewordLM":
        """See `create_from_arg_obj`."""
        return cls.create_from_arg_obj(utils.simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        """The id that ends documents; it stands for an empty context too."""
        return self._tokenizer.eod_id

    @property
    def max_length(self) -> int:
        """Positions."""
        return self.model.config.max_position_embeddings

    @property
    def tokenizer_name(self) -> str:
        """For the harness's caches."""
        return self._tokenizer.sha256

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, without special ones."""
        return self._tokenizer.encode(string)

    def _loglikelihood_tokens(self, requests: list, **_: Any) -> list[tuple[float, bool]]:
        asked = [Request(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        found = likelihoods(
            self.model, asked, reading=self.reading, batch_size=self._batch_size, parallel=self.parallel
        )
        answers = [(likelihood.log_likelihood, likelihood.is_greedy) for likelihood in found]
        for (texts, *_rest), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows as long as the model has positions.

        Every token is predicted once, the first one from the end-of-document id; a window behind the first begins with
        the last token of the one before, so that nothing is read in both directions.
        """
        windows, counts = [], []
        for (text,) in (request.args for request in requests):
            rolling = utils.get_rolling_token_windows(self.tok_encode(text), self.eot_token_id, self.max_length, 1)
            found = [utils.make_disjoint_window(window) for window in rolling]
            windows += [(("", ""), list(context), list(continuation)) for context, continuation in found]
            counts.append(len(found))
        answers = iter(self._loglikelihood_tokens(windows))
        return [sum(next(answers)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Continuations up to the first of the stop strings, or to the end of the document."""
        asked = [self._free_request(*request.args) for request in requests]
        chunks = list(together(asked, self._batch_size))
        own = chunks[self.parallel.data_parallel_rank :: self.parallel.data_parallel_size]

        def answer_own() -> dict[int, str]:
            answers: dict[int, str] = {}
            with progress("generate", len(own), "batches") as bar:
                for done, chunk in enumerate(own, start=1):
                    answers |= zip(chunk, self._continue([asked[index] for index in chunk]), strict=True)
                    bar.update(done)
            return answers

        merged = {index: text for part in gather(answer_own) for index, text in part.items()}
        return [merged[index] for index in range(len(requests))]

    def _free_request(self, context: str, options: dict) -> FreeRequest:
        settings = normalize_gen_kwargs(options, DEFAULT_NEW_TOKENS)
        new_tokens = min(int(settings["max_gen_toks"]), self.max_length - 1)
        drawn = bool(settings.get("do_sample"))
        sampling = Sampling(
            temperature=float(settings.get("temperature") or 0.0) if drawn else 0.0,
            top_k=settings.get("top_k"),
            top_p=settings.get("top_p"),
        )
        stops = [stop for stop in handle_stop_sequences(settings.get("until"), eos=None) if stop]
        prompt = (self.tok_encode(context) or [self.eot_token_id])[-(self.max_length - new_tokens) :]
        return FreeRequest(tuple(prompt), new_tokens, sampling, tuple(stops))

    def _continue(self, requests: Sequence[FreeRequest]) -> list[str]:
        """Of requests that differ in their prompts alone."""
        first = requests[0]
        streams = [TextStream(self._tokenizer, request.prompt, first.stops) for request in requests]

        def add(row: int, token: int) -> bool:
            streams[row].add(token)
            return streams[row].stopped

        generate(
            self.model,
            [request.prompt for request in requests],
            max_new_tokens=first.new_tokens,
            sampling=first.sampling,
            prefix=self.reading == "prefix",
            stop_id=self.eot_token_id,
            on_token=add,
        )
        for stream in streams:
            stream.end()
        return [stream.text for stream in streams]


def together(requests: Sequence[FreeRequest], batch_size: int) -> Iterator[list[int]]:
    """Indices of requests that are answered together: equal but for their prompts, of similar length."""
    alike: dict[FreeRequest, list[int]] = {}
    for index, request in enumerate(requests):
        alike.setdefault(replace(request, prompt=()), []).append(index)
    for indices in alike.values():
        indices.sort(key=lambda index: (-len(requests[index].prompt), index))
        for begin in range(0, len(indices), batch_size):
            yield indices[begin : begin + batch_size]
