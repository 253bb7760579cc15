"""What a run tells, step by step: every rank has a `Reporter` and calls it alike, and rank 0's writes.

Nothing is written once another process has taken the run over. What cannot be written is an error that rank 0 meets
alone, and that all ranks raise where they meet next.
"""

from collections.abc import Callable

from pipeline.checkpoint.meta import Progress
from pipeline.distributed.agreement import Alone
from pipeline.engine import StepResult
from pipeline.run.lease import Lease
from pipeline.run.step_counts import StepCounts
from pipeline.telemetry.recorder import Telemetry
from pipeline.telemetry.throughput import Throughput, Work


class Reporter:
    """Tells of a run.

    Args:
        telemetry: where records go, on rank 0; None elsewhere.
        lease: of the run, on rank 0.
        alone: keeps the errors that rank 0 meets here.
        throughput: counts what the steps do.
    """

    def __init__(self, telemetry: Telemetry | None, lease: Lease | None, alone: Alone, throughput: Throughput) -> None:
        self._telemetry, self._lease, self._alone = telemetry, lease, alone
        self._throughput = throughput

    @property
    def wandb_run_id(self) -> str | None:
        """Goes into each checkpoint; on rank 0."""
        return None if self._telemetry is None else self._telemetry.wandb_run_id

    def tell(self, record: Callable[[Telemetry], None]) -> None:
        """Write a record: `record` gets the `Telemetry`, on rank 0 and while the run is still this process's."""
        telemetry, lease = self._telemetry, self._lease
        if telemetry is None or lease is None:
            return
        self._alone(lease.verify)
        if self._alone.error is None:
            self._alone(lambda: record(telemetry))

    def count(self, counts: StepCounts, *, skipped: bool) -> None:
        """Count a step that was taken."""
        self._throughput.add(Work(1, int(skipped), counts.tokens, counts.targets, counts.attended_pairs))

    def step(self, progress: Progress, result: StepResult, targets: int, lr: float) -> None:
        """Write the record of the step that led to `progress`, with the rates since the last record.

        Its loss is the mean over the `targets` scored tokens of the global batch, in nats.
        """
        rates = self._throughput.rates()
        own = {"loss": result.loss, "lr": lr, "grad_norm": result.grad_norm, "targets": targets}
        memory = {"memory_bytes": self._throughput.memory_bytes()}
        self.tell(lambda to: to.step({**progress.model_dump(), **own, **rates, **memory}))

    def summary(self, progress: Progress) -> None:
        """Write what this start has done and where its time went; nothing comes behind it."""
        self.tell(lambda to: to.summary(progress.step, self._throughput.summary()))
