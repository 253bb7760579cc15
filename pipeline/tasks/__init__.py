"""Zero-shot tasks through lm-evaluation-harness (Gao et al.), an optional dependency: `pip install foreword[tasks]`.

requests  contexts and continuations as ids -> batches, and what a model makes of them
adapter   the harness's interface to a model, registered there as `foreword`
run       names of tasks -> their scores
local/    small tasks that were written for this project and need no network
"""
