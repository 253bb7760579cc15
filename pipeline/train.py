"""The training loop, top to bottom: open, build, resume, step, evaluate, save.

Every decision that must be the same on all ranks (stop, save, evaluate, give up) is a pure function of the step or of
numbers that were summed over all ranks, so that no rank waits for another that went elsewhere.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from data_prep.manifest import TokenizerInfo
from foreword.errors import CheckpointError, ForewordError, StoppedOnRequest
from pipeline.attention import COMPUTE_DTYPES, select_backend
from pipeline.checkpoint.find import step_directory
from pipeline.checkpoint.fragments import optimizer_steps
from pipeline.checkpoint.meta import CheckpointMeta, Origin, ParameterInfo, Progress, Randomness, Topology
from pipeline.checkpoint.restore import restore
from pipeline.checkpoint.save import Saver
from pipeline.checkpoint.workspace import Workspace
from pipeline.config import TrainConfig
from pipeline.data.batch import Batch
from pipeline.data.corpora import Corpora, open_corpora
from pipeline.data.loader import TrainLoader
from pipeline.data.rows import TrainingRows
from pipeline.data.share import Share
from pipeline.distributed.agreement import all_ranks, gather, main_rank
from pipeline.distributed.parallel import Parallel, initialize
from pipeline.engine import Engine
from pipeline.init_from import begin_from
from pipeline.lease import Lease, acquire
from pipeline.model import GPT2, build_model, padded_vocab_size
from pipeline.model.flops import attended_pairs
from pipeline.run_directory import identify, prepare_run_directory
from pipeline.schedule import Schedule
from pipeline.start import Start
from pipeline.stop import StopRequest
from pipeline.telemetry.recorder import Telemetry
from pipeline.telemetry.throughput import Throughput
from pipeline.telemetry.versions import library_versions
from pipeline.validation import judged_by, summarize, validate_model

Result = TypeVar("Result")


def train(config: TrainConfig, start: Start = Start()) -> None:  # noqa: B008 - frozen
    """Train until `schedule.total_steps`, from the newest complete checkpoint or from where `start` says.

    Raises:
        StoppedOnRequest: a signal came; a checkpoint was saved at a step boundary.
        ForewordError: the configuration, the corpus or a checkpoint cannot be used, the run directory is in use or
            cannot be written, or the loss is not finite.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        parallel = initialize(config.parallel.tensor_parallel_size)
        stack.callback(parallel.destroy)

        corpora = all_ranks(lambda: open_corpora(config))
        schedule = all_ranks(
            lambda: Schedule(config.schedule, config.optimizer.lr, config.batch, corpora.sequence_length)
        )
        share = all_ranks(lambda: Share.of(parallel, schedule))
        silence_s = config.checkpoint.takeover_after_s
        lease = all_ranks(lambda: stack.enter_context(acquire(config.run_dir, silence_s)) if parallel.is_main else None)
        number = main_rank(lambda: lease.number if lease else 0)
        checkpoint, origin = prepare_run_directory(config, corpora, schedule, start, number)

        model = all_ranks(lambda: _drawn_model(config, corpora.tokenizer, parallel)).to(parallel.device)
        engine = Engine(model, config, parallel, share.max_accumulation_steps)
        progress, wandb_run_id = Progress(), None
        if checkpoint is not None:
            meta = restore(checkpoint, engine)
            progress, wandb_run_id, origin = meta.progress, meta.wandb_run_id, meta.origin
        elif origin is not None:
            progress = begin_from(origin, engine)

        loader = TrainLoader(
            TrainingRows(corpora, config),
            share,
            samples_consumed=progress.samples_consumed,
            batch_sizes=schedule.batch_sizes(*progress.position),
            pin_memory=parallel.device.type == "cuda",
        )
        stack.callback(loader.close)

        def start_telemetry() -> Telemetry | None:
            if lease is None:
                return None
            total_steps = schedule.total_steps(*progress.position)
            telemetry = stack.enter_context(Telemetry(config, wandb_run_id, progress.step, total_steps, lease.path))
            telemetry.start(progress.step, _topology(config, parallel).model_dump(), checkpoint, origin)
            return telemetry

        telemetry = all_ranks(start_telemetry)
        workspace = Workspace(config.run_dir, number)
        main_rank(workspace.open)
        saver = all_ranks(lambda: stack.enter_context(Saver(engine, workspace, config.checkpoint, lease)))
        run = _Run(config, schedule, parallel, corpora, engine, saver, lease, telemetry, progress, checkpoint, origin)
        run.run(loader, stop)


@dataclass(frozen=True)
class _StepCounts:
    """What the ranks agree on before a step: sums over the global batch, and whether anyone has something to say."""

    tokens: int
    targets: int
    attended_pairs: int
    problem: bool
    stop: bool
    save_done: bool
    save_failed: bool


class _Run:
    """A run that is set up: its loop, and what the loop does now and then."""

    def __init__(
        self,
        config: TrainConfig,
        schedule: Schedule,
        parallel: Parallel,
        corpora: Corpora,
        engine: Engine,
        saver: Saver,
        lease: Lease | None,
        telemetry: Telemetry | None,
        progress: Progress,
        checkpoint: Path | None,
        origin: Origin | None,
    ) -> None:
        self.config, self.schedule, self.parallel = config, schedule, parallel
        self.corpora, self.engine, self.saver = corpora, engine, saver
        self.lease, self.telemetry = lease, telemetry  # on rank 0
        self.progress = progress
        self.checkpoint, self.origin = checkpoint, origin  # the newest one; what the run once began with
        self.loss: float | None = None  # of the last step whose update was made
        self.validation_loss: float | None = None  # of the last step, when it was evaluated
        self.save_is_due = False  # a step that is skipped is not the one to save after: the next good one is
        self.problem: ForewordError | None = None  # met by this rank alone
        self.save_error: CheckpointError | None = None  # of the last save
        self.throughput = Throughput(
            config.model, padded_vocab_size(engine.model.vocab_size), parallel.world_size, parallel.device
        )

    def run(self, loader: TrainLoader, stop: StopRequest) -> None:
        """Step until the schedule's end, or until a signal; whatever ends the run, a save in flight is awaited."""
        try:
            self._steps(loader, stop)
        except ForewordError as error:
            if error.on_all_ranks:
                with suppress(ForewordError):  # of the two errors, the one that came first is raised
                    self._await_save()
            raise

    def _steps(self, loader: TrainLoader, stop: StopRequest) -> None:
        config, schedule = self.config, self.schedule
        self.throughput.restart()
        while not schedule.is_over(*self.progress.position):
            micro_batches = self._alone(lambda: next(loader)) or []
            micro_batches = [batch.to(self.parallel.device) for batch in micro_batches]
            counts = self._agree(micro_batches, stop)
            if counts.save_done or counts.save_failed:
                self._advance_save(give_up=counts.save_failed)
            if counts.problem:
                all_ranks(self._raise_problem)
            if counts.stop:
                self._stop(stop)
            if not counts.targets:
                raise self._failure("no token of this step's global batch is scored", "check the prefix policy")

            lr = schedule.learning_rate(*self.progress.position)
            result = self.engine.step(micro_batches, counts.targets, lr)
            rows, skipped = schedule.batch_size(*self.progress.position), result.skipped is not None
            self.progress = self.progress.after_step(rows, counts.tokens, counts.targets, skipped=skipped)
            self.throughput.add(counts.tokens, counts.targets, counts.attended_pairs, loader.wait_s)

            self.validation_loss = None
            if result.skipped is not None:
                self._report_skipped(result.skipped, micro_batches)
            else:
                self.loss = result.loss
                if self._is_due(config.logging.every_steps):
                    self._log(counts.targets, lr, result.grad_norm)
            if self._is_due(config.evaluation.every_steps):
                self._evaluate()
            self.save_is_due |= self._is_due(config.checkpoint.every_steps)
            if self.save_is_due and not (skipped and not schedule.is_over(*self.progress.position)):
                self._save()
        self._await_save()
        self._raise_save_error()
        if self.telemetry:
            self._tell(partial(self.telemetry.finish, self.progress, self.loss))
        all_ranks(self._raise_problem)

    def _is_due(self, every_steps: int | None) -> bool:
        """Whether something that happens every so many steps, and at the end of the run, happens now."""
        if every_steps is None:
            return False
        return self.progress.step % every_steps == 0 or self.schedule.is_over(*self.progress.position)

    def _agree(self, micro_batches: list[Batch], stop: StopRequest) -> _StepCounts:
        """Sum this step's counts over all ranks, in one small all-reduce."""
        if self.lease:
            self._alone(self.lease.check)
        own = [
            sum(batch.tokens_BS.numel() for batch in micro_batches),
            sum(batch.num_targets for batch in micro_batches),
            sum(attended_pairs(batch) for batch in micro_batches),
            int(self.problem is not None),
            int(stop.heard),
            self.saver.done,
            self.saver.failed,
        ]
        total = torch.tensor(own, dtype=torch.int64, device=self.parallel.device)
        dist.all_reduce(total)
        tokens, targets, pairs, problems, stops, done, failed = total.tolist()
        replicas = self.parallel.tensor_parallel_size  # the ranks of a tensor-parallel group count the same rows
        return _StepCounts(
            tokens // replicas,
            targets // replicas,
            pairs // replicas,
            problem=problems > 0,
            stop=stops > 0,
            save_done=done == self.parallel.world_size,
            save_failed=failed > 0,
        )

    def _alone(self, work: Callable[[], Result]) -> Result | None:
        """Do what this rank does by itself; when it cannot, all ranks hear of it where they meet next."""
        try:
            return work()
        except ForewordError as error:
            self.problem = error
            return None

    def _tell(self, record: Callable[[], None]) -> None:
        """Write a record, on rank 0 and while the run is still this process's."""
        assert self.lease is not None
        self._alone(self.lease.verify)
        if self.problem is None:
            self._alone(record)

    def _raise_problem(self) -> None:
        if self.problem is not None:
            raise self.problem

    def _failure(self, what: str, remedy: str) -> ForewordError:
        """An error that all ranks raise, about the step at hand or, between two steps, the last one."""
        where = f"{self.config.run_dir}, step {self.progress.step}"
        return ForewordError(what, where=where, remedy=remedy, on_all_ranks=True)

    def _log(self, targets: int, lr: float, grad_norm: float) -> None:
        """Write the record of this step; its loss is the mean over the scored tokens of the global batch, in nats."""
        rates = self.throughput.rates()
        if self.telemetry:
            own = {"loss": self.loss, "lr": lr, "grad_norm": grad_norm, "targets": targets}
            memory = {"memory_bytes": self.throughput.memory_bytes()}
            record = {**self.progress.model_dump(), **own, **rates, **memory}
            self._tell(partial(self.telemetry.step, record))

    def _report_skipped(self, reason: str, micro_batches: list[Batch]) -> None:
        """Name the rows of a step whose update was not made; give up when there are too many such steps in a row."""
        first_of_group = self.parallel.tensor_parallel_rank == 0  # the others have the same rows
        own_rows = [int(row) for batch in micro_batches for row in batch.row_ids] if first_of_group else []
        rows = [row for rank_rows in gather(lambda: own_rows) for row in rank_rows]
        if self.telemetry:
            self._tell(partial(self.telemetry.skipped, self.progress.step, reason, rows))
        if self.engine.guard.is_out_of_patience:
            raise self._failure(
                f"{reason}; {self.engine.guard.skipped_in_a_row} steps in a row were skipped",
                "the last checkpoint is untouched; lower optimizer.lr, or look at the rows of these steps",
            )

    def _evaluate(self) -> None:
        results = validate_model(self.engine.model, self.corpora, self.config, self.parallel)
        summary = summarize(results, self.corpora.weights)
        self.validation_loss = summary[judged_by(self.config.objective)]
        if self.telemetry:
            self._tell(partial(self.telemetry.validation, self.progress.step, summary))
        self.throughput.restart()

    def _save(self) -> None:
        """Begin to save. One save is in flight at most: one that takes longer than its interval is waited for."""
        started = time.perf_counter()
        self.save_is_due = False
        self._await_save()
        self.saver.begin(self._describe(), waited_s=time.perf_counter() - started)
        if not self.config.checkpoint.asynchronous:
            self._await_save()
        self.throughput.restart()

    def _await_save(self) -> None:
        while self.saver.in_flight:
            self._advance_save()

    def _advance_save(self, give_up: bool = False) -> None:
        """Let a save go on that all ranks are done with, or wait until they are. When it fails, the run does not."""
        try:
            saved = self.saver.advance(give_up=give_up)
        except CheckpointError as error:
            self.save_error = error
            if self.telemetry:
                self._tell(partial(self.telemetry.failed_save, self.progress.step, str(error)))
            return
        if saved:
            self.checkpoint, self.save_error = saved.path, None
            if self.telemetry:
                self._tell(partial(self.telemetry.checkpoint, **asdict(saved)))

    def _raise_save_error(self) -> None:
        """A run does not end well without its last checkpoint."""
        if self.save_error is not None:
            raise self.save_error

    def _stop(self, stop: StopRequest) -> None:
        if self.telemetry:
            self._tell(partial(self.telemetry.stop, self.progress.step, stop.name))
        self._await_save()
        if self.checkpoint != step_directory(self.config.run_dir, self.progress.step):  # else it is saved already
            self._save()
            self._await_save()
        self._raise_save_error()
        raise StoppedOnRequest(
            f"stopped on request after step {self.progress.step}",
            where=self.checkpoint,
            remedy="the same command continues from here",
            on_all_ranks=True,
        )

    def _describe(self) -> CheckpointMeta:
        return CheckpointMeta(
            progress=self.progress,
            optimizer_steps=optimizer_steps(self.engine),
            engine=self.engine.state,
            origin=self.origin,
            loss=self.loss,
            validation_loss=self.validation_loss,
            topology=_topology(self.config, self.parallel),
            corpus=identify(self.corpora),
            randomness=Randomness(seed=self.config.seed, data_seed=self.config.data.seed),
            config=self.config.model_dump(mode="json"),
            versions=library_versions(),
            wandb_run_id=self.telemetry.wandb_run_id if self.telemetry else None,
            parameters={
                name: ParameterInfo(shape=tuple(layout.full_shape), partition_dim=layout.partition_dim)
                for name, layout in self.engine.layout.items()
            },
            files={},  # they are written later
        )


def _drawn_model(config: TrainConfig, tokenizer: TokenizerInfo, parallel: Parallel) -> GPT2:
    """The model with the weights that are drawn from `seed`."""
    backend = select_backend(config.attention, parallel.device, COMPUTE_DTYPES[config.precision])
    return build_model(
        config.model,
        tokenizer.vocab_size,
        backend=backend,
        seed=config.seed,
        sequence_parallel=config.parallel.sequence_parallel,
        z_loss=config.z_loss,
    )


def _topology(config: TrainConfig, parallel: Parallel) -> Topology:
    return Topology(
        world_size=parallel.world_size,
        tensor_parallel_size=parallel.tensor_parallel_size,
        data_parallel_size=parallel.data_parallel_size,
        zero_stage=config.parallel.zero_stage,
        precision=config.precision,
    )
