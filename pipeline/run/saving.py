"""The saves of a run as its loop sees them: begun, let go on at step boundaries, awaited.

A save that fails is told of and does not end the run: training goes on, and the next one is made when it is due. Only a
run that ends without its last checkpoint does not end well.
"""

from dataclasses import asdict
from pathlib import Path

from foreword.errors import CheckpointError
from pipeline.checkpoint.fragments import optimizer_steps
from pipeline.checkpoint.meta import CheckpointMeta, Origin, ParameterInfo, Progress, Randomness, Topology
from pipeline.checkpoint.save import Saver
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import Corpora
from pipeline.distributed.parallel import Parallel
from pipeline.engine import Engine
from pipeline.run.directory import identify
from pipeline.run.step_counts import StepCounts
from pipeline.telemetry.clock import Clock
from pipeline.telemetry.reporter import Reporter
from pipeline.telemetry.versions import library_versions


class Saving:
    """Saves of one run; every rank calls the same methods at the same steps.

    Args:
        saver: does the work.
        asynchronous: whether training goes on meanwhile.
        clock: hears of the time that training stands still for it.
        reporter: hears of each save that has ended.
        newest: the checkpoint that the run continues from, if any.

    Attributes:
        newest: the newest checkpoint.
    """

    def __init__(self, saver: Saver, asynchronous: bool, clock: Clock, reporter: Reporter, newest: Path | None) -> None:
        self._saver, self._asynchronous, self._clock, self._reporter = saver, asynchronous, clock, reporter
        self._error: CheckpointError | None = None  # of the last save
        self.newest = newest

    @property
    def signs(self) -> dict[str, int]:
        """What this rank tells the others before a step, see `StepCounts`."""
        return {"save_done": self._saver.done, "save_failed": self._saver.failed}

    def begin(self, meta: CheckpointMeta) -> None:
        """Begin to save. One save is in flight at most: one that takes longer than its interval is waited for."""
        self.wait(meta.progress.step)
        with self._clock.spent_on("saving"):
            self._saver.begin(meta)
        if not self._asynchronous:
            self.wait(meta.progress.step)

    def go_on(self, step: int, counts: StepCounts, world_size: int) -> None:
        """At the boundary after `step`, take a save further that all ranks are done with, or give up a failed one."""
        if counts.saves_failed or counts.saves_done == world_size:
            self._advance(step)

    def wait(self, step: int) -> None:
        """Wait at the boundary after `step` until nothing is in flight."""
        while self._saver.in_flight:
            self._advance(step)

    def raise_error(self) -> None:
        """Raise what the last save has failed with, if it has.

        Raises:
            CheckpointError: on all ranks.
        """
        if self._error is not None:
            raise self._error

    def _advance(self, step: int) -> None:
        try:
            with self._clock.spent_on("saving"):
                saved = self._saver.advance()
        except CheckpointError as error:
            self._error, message = error, str(error)
            self._reporter.tell(lambda to: to.failed_save(step, message))
            return
        if saved:
            self.newest, self._error = saved.path, None
            self._reporter.tell(lambda to: to.checkpoint(**asdict(saved)))


def describe(
    config: TrainConfig,
    corpora: Corpora,
    engine: Engine,
    origin: Origin | None,
    progress: Progress,
    *,
    loss: float | None,
    validation_loss: float | None,
    wandb_run_id: str | None,
) -> CheckpointMeta:
    """What foreword.json says of the engine as it is now, but for the files, which are written later."""
    return CheckpointMeta(
        progress=progress,
        optimizer_steps=optimizer_steps(engine),
        engine=engine.state,
        origin=origin,
        loss=loss,
        validation_loss=validation_loss,
        topology=topology_of(config, engine.parallel),
        corpus=identify(corpora),
        randomness=Randomness(seed=config.seed, data_seed=config.data.seed),
        config=config.model_dump(mode="json"),
        versions=library_versions(),
        wandb_run_id=wandb_run_id,
        parameters={
            name: ParameterInfo(shape=tuple(layout.full_shape), partition_dim=layout.partition_dim)
            for name, layout in engine.layout.items()
        },
        files={},
    )


def topology_of(config: TrainConfig, parallel: Parallel) -> Topology:
    """How the run is cut."""
    return Topology(
        world_size=parallel.world_size,
        tensor_parallel_size=parallel.tensor_parallel_size,
        data_parallel_size=parallel.data_parallel_size,
        zero_stage=config.parallel.zero_stage,
        precision=config.precision,
    )
