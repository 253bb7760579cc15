"""What the ranks tell each other before a step, in one small all-reduce.

The sums decide what all of them do next, so none goes elsewhere while another waits for it.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
import torch.distributed as dist

from pipeline.data.batch import Batch
from pipeline.distributed.parallel import Parallel
from pipeline.plan.flops import attended_pairs


@dataclass(frozen=True)
class StepCounts:
    """One rank's counts, or their sums over all ranks.

    Attributes:
        tokens: input positions of the step.
        targets: its scored positions.
        attended_pairs: query-key pairs that its masks allow, in one layer.
        problems: ranks that have met an error by themselves.
        stops: ranks that have heard a stop signal.
        saves_done: ranks whose part of the save in flight has ended.
        saves_failed: ranks on which it has failed.
    """

    tokens: int
    targets: int
    attended_pairs: int
    problems: int
    stops: int
    saves_done: int
    saves_failed: int

    @classmethod
    def of(
        cls, micro_batches: Sequence[Batch], *, problem: bool, stop: bool, save_done: int, save_failed: int
    ) -> "StepCounts":
        """This rank's."""
        return cls(
            tokens=sum(batch.tokens_BS.numel() for batch in micro_batches),
            targets=sum(batch.num_targets for batch in micro_batches),
            attended_pairs=sum(attended_pairs(batch.segments_G3) for batch in micro_batches),
            problems=int(problem),
            stops=int(stop),
            saves_done=save_done,
            saves_failed=save_failed,
        )

    def over_all_ranks(self, parallel: Parallel) -> "StepCounts":
        """The sums, the same on every rank; every rank must call this. Each row of the global batch counts once."""
        total = torch.tensor(astuple(self), dtype=torch.int64, device=parallel.device)
        dist.all_reduce(total)
        tokens, targets, pairs, *signs = total.tolist()
        replicas = parallel.tensor_parallel_size  # the ranks of a tensor-parallel group count the same rows
        return StepCounts(tokens // replicas, targets // replicas, pairs // replicas, *signs)
