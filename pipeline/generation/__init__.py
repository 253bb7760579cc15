"""Prompts -> continuations, and gaps -> what fills them, by a trained model.

generate           prompt ids in, new ids out, for several prompts of different lengths at once
fill_gaps          two contexts with a gap between them in, the gap's ids out, for models trained on masked tokens
Sampling, GREEDY   how a token is chosen, and the seed of its draws
"""

from pipeline.generation.decoding import Continuation, check_prompt, generate
from pipeline.generation.gaps import Gap, fill_gaps
from pipeline.generation.sampling import GREEDY, Sampling

__all__ = ["GREEDY", "Continuation", "Gap", "Sampling", "check_prompt", "fill_gaps", "generate"]
