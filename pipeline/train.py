"""The training loop, top to bottom: open, build, resume; then step, evaluate and save until the end.

What it leaves to other rooms: what the ranks tell each other before a step (`run.step_counts`), checkpoints that are
written while training goes on (`run.saving`), and what is told of the run (`telemetry.reporter`).

Every decision that must be the same on all ranks (stop, save, evaluate, give up) is a pure function of the step or of
numbers that were summed over all ranks, so that no rank waits for another that went elsewhere.
"""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta

from data_prep.manifest import TokenizerInfo
from foreword.errors import ForewordError, StoppedOnRequest
from pipeline.attention import COMPUTE_DTYPES, select_backend
from pipeline.checkpoint.find import step_directory
from pipeline.checkpoint.meta import Origin, Progress
from pipeline.checkpoint.restore import restore
from pipeline.checkpoint.save import Saver
from pipeline.checkpoint.workspace import Workspace
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.data.corpora import Corpora, open_corpora
from pipeline.data.loader import TrainLoader
from pipeline.data.rows import TrainingRows
from pipeline.data.share import Share
from pipeline.distributed.agreement import Alone, all_ranks, gather, main_rank
from pipeline.distributed.parallel import TIMEOUT, Parallel, initialize
from pipeline.engine import Engine
from pipeline.evaluation.samples import Sampler
from pipeline.evaluation.validation import judged_by, summarize, validate_model
from pipeline.model import GPT2, build_model, padded_vocab_size
from pipeline.run.directory import prepare_run_directory
from pipeline.run.init_from import begin_from
from pipeline.run.lease import Lease, acquire
from pipeline.run.saving import Saving, describe, topology_of
from pipeline.run.start import Start
from pipeline.run.step_counts import StepCounts
from pipeline.run.stop import StopRequest
from pipeline.schedule import Schedule
from pipeline.telemetry.clock import Clock
from pipeline.telemetry.profile import StepProfiler
from pipeline.telemetry.recorder import Telemetry
from pipeline.telemetry.reporter import Reporter
from pipeline.telemetry.throughput import Throughput
from pipeline.watchdog.watchdog import Watchdog, name_start


def train(
    config: TrainConfig,
    start: Start = Start(),  # noqa: B008 - frozen
    *,
    stop: StopRequest | None = None,
    profile_steps: int | None = None,
    began: float | None = None,
) -> None:
    """Train until the schedule's end, from the newest complete checkpoint or from where `start` says.

    Args:
        config: the resolved configuration.
        start: what this start does with the checkpoints that are there.
        stop: hears the signals that end the run; None: one that begins now.
        profile_steps: how many steps torch's profiler shall look at, see `telemetry.profile`; None is none.
        began: when the command began, as `time.perf_counter` tells it; None is now.

    Raises:
        StoppedOnRequest: a signal came; a checkpoint was saved at a step boundary.
        ForewordError: the configuration, the corpus or a checkpoint cannot be used, the run directory is in use or
            cannot be written, or too many steps in a row were skipped.
    """
    clock = Clock(began)
    with ExitStack() as stack:
        stop = stop or stack.enter_context(StopRequest())
        # the watchdog, which names who is waited for, comes before a collective that has waited for too long
        timeout = max(TIMEOUT, timedelta(seconds=2 * config.watchdog.longest_s))
        parallel = initialize(config.parallel.tensor_parallel_size, timeout)
        start_name = main_rank(name_start)
        watchdog = Watchdog(config.watchdog, config.run_dir, start_name, parallel.rank, parallel.world_size, clock)
        stack.enter_context(watchdog)
        stack.callback(parallel.destroy)

        # open: the data, the course of the run, and the run's directory, which has one writer
        corpora = all_ranks(lambda: open_corpora(config))
        schedule = all_ranks(
            lambda: Schedule(config.schedule, config.optimizer.lr, config.batch, corpora.sequence_length)
        )
        share = all_ranks(lambda: Share.of(parallel, schedule))
        silence_s = config.checkpoint.takeover_after_s
        lease = all_ranks(lambda: stack.enter_context(acquire(config.run_dir, silence_s)) if parallel.is_main else None)
        number = main_rank(lambda: lease.number if lease else 0)
        watchdog.begin_heartbeats(number)
        checkpoint, origin = prepare_run_directory(config, corpora, schedule, start, lease)

        sampler = all_ranks(lambda: Sampler(corpora, config) if config.evaluation.samples else None)

        # build
        model = all_ranks(lambda: _drawn_model(config, corpora.tokenizer, parallel)).to(parallel.device)
        engine = Engine(model, config, parallel, share.max_accumulation_steps)

        # resume, or begin with another run's weights
        progress, wandb_run_id = Progress(), None
        if checkpoint is not None:
            meta = restore(checkpoint, engine)
            progress, wandb_run_id, origin = meta.progress, meta.wandb_run_id, meta.origin
        elif origin is not None:
            progress = begin_from(origin, engine)

        # beside the steps: rows are read ahead, records are written, checkpoints are saved
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
            with lease.blamed_if_lost():
                telemetry = Telemetry(config, wandb_run_id, progress.step, total_steps, lease.path)
            stack.enter_context(telemetry)
            telemetry.start(progress.step, topology_of(config, parallel).model_dump(), checkpoint, origin)
            return telemetry

        telemetry = all_ranks(start_telemetry)
        alone = Alone()
        vocab_size = padded_vocab_size(corpora.tokenizer.vocab_size)
        throughput = Throughput(config.model, vocab_size, parallel.world_size, parallel.device, clock)
        reporter = Reporter(telemetry, lease, alone, throughput)
        workspace = Workspace(config.run_dir, number)
        main_rank(workspace.open)
        saver = all_ranks(lambda: stack.enter_context(Saver(engine, workspace, config.checkpoint, lease)))
        saving = Saving(saver, config.checkpoint.asynchronous, clock, reporter, checkpoint)
        profiler = StepProfiler(profile_steps, config.run_dir, parallel.rank, parallel.device, progress.step, clock)

        run = _Run(
            config,
            parallel,
            corpora,
            schedule,
            engine,
            loader,
            lease,
            alone,
            clock,
            reporter,
            saving,
            profiler,
            sampler,
            watchdog,
            origin,
            progress,
        )
        stack.callback(watchdog.close)
        run.run(stop)


@dataclass
class _Run:
    """A run that is set up: its loop, and what the loop does now and then."""

    config: TrainConfig
    parallel: Parallel
    corpora: Corpora
    schedule: Schedule
    engine: Engine
    loader: TrainLoader
    lease: Lease | None  # on rank 0
    alone: Alone
    clock: Clock
    reporter: Reporter
    saving: Saving
    profiler: StepProfiler
    sampler: Sampler | None  # where samples are asked for
    watchdog: Watchdog
    origin: Origin | None  # what the run once began with
    progress: Progress
    loss: float | None = None  # of the last step whose update was made
    validation_loss: float | None = None  # of the last step, when it was evaluated
    skipped: bool = False  # whether the update of the last step was not made
    save_is_due: bool = False  # a step that is skipped is not the one to save after: the next good one is

    def run(self, stop: StopRequest) -> None:
        """Step until the schedule's end, or until a signal; whatever ends the run, a save in flight is awaited."""
        try:
            self._steps(stop)
            if self._is_over():
                self._finish()
            else:
                self._stop(stop.name)
        except ForewordError as error:
            if error.on_all_ranks:
                with suppress(ForewordError):  # of the two errors, the one that came first is raised
                    self.saving.wait(self.progress.step)
            raise

    def _steps(self, stop: StopRequest) -> None:
        self.clock.go_over_to("training")
        with self.profiler:
            while not self._is_over():
                with self.clock.spent_on("data_wait"):
                    micro_batches = self.alone(lambda: next(self.loader)) or []
                micro_batches = self.clock.follow(batch.to(self.parallel.device) for batch in micro_batches)
                counts = self._agree(micro_batches, stop)
                if counts.stops:
                    return
                self._step(micro_batches, counts)
                self.watchdog.step(self.progress.step)
                if self._is_due(self.config.evaluation.every_steps):
                    self._evaluate()
                self.save_is_due |= self._is_due(self.config.checkpoint.every_steps)
                if self.save_is_due and (not self.skipped or self._is_over()):
                    self._save()
                self.profiler.step(self.progress.step)

    def _is_over(self) -> bool:
        return self.schedule.is_over(*self.progress.position)

    def _is_due(self, every_steps: int | None) -> bool:
        """Whether something that happens every so many steps, and at the end of the run, happens now."""
        return every_steps is not None and (self.progress.step % every_steps == 0 or self._is_over())

    def _agree(self, micro_batches: list[Batch], stop: StopRequest) -> StepCounts:
        """Hear from all ranks what the next step is made of, and whether there is a reason not to take it."""
        if self.lease:
            self.alone(self.lease.check)
        own = StepCounts.of(micro_batches, problem=self.alone.error is not None, stop=stop.heard, **self.saving.signs)
        counts = own.over_all_ranks(self.parallel)
        self.saving.go_on(self.progress.step, counts, self.parallel.world_size)
        if counts.problems:
            self.alone.raise_together()
        return counts

    def _step(self, micro_batches: list[Batch], counts: StepCounts) -> None:
        if not counts.targets:
            raise self._failure("no token of this step's global batch is scored", "check the prefix policy")
        lr = self.schedule.learning_rate(*self.progress.position)
        result = self.engine.step(micro_batches, counts.targets, lr)
        rows, self.skipped = self.schedule.batch_size(*self.progress.position), result.skipped is not None
        self.progress = self.progress.after_step(rows, counts.tokens, counts.targets, skipped=self.skipped)
        self.reporter.count(counts, skipped=self.skipped)
        self.validation_loss = None
        if result.skipped is not None:
            self._report_skipped(result.skipped, micro_batches)
        else:
            self.loss = result.loss
            if self._is_due(self.config.logging.every_steps):
                self.reporter.step(self.progress, result, counts.targets, lr)

    def _report_skipped(self, reason: str, micro_batches: list[Batch]) -> None:
        """Name the rows of a step whose update was not made; give up when there are too many such steps in a row."""
        first_of_group = self.parallel.tensor_parallel_rank == 0  # the others have the same rows
        own_rows = [int(row) for batch in micro_batches for row in batch.row_ids] if first_of_group else []
        rows = [row for rank_rows in gather(lambda: own_rows) for row in rank_rows]
        self.reporter.tell(lambda to: to.skipped(self.progress.step, reason, rows))
        if self.engine.guard.is_out_of_patience:
            raise self._failure(
                f"{reason}; {self.engine.guard.skipped_in_a_row} steps in a row were skipped",
                "the last checkpoint is untouched; lower optimizer.lr, or look at the rows of these steps",
            )

    def _evaluate(self) -> None:
        with self.clock.spent_on("evaluating"):
            results = validate_model(self.engine.model, self.corpora, self.config, self.parallel)
        summary = summarize(results, self.corpora.weights)
        self.validation_loss = summary[judged_by(self.config.objective)]
        self.reporter.tell(lambda to: to.validation(self.progress.step, summary))
        if self.sampler is not None:
            with self.clock.spent_on("evaluating"):
                samples = self.sampler.draw(self.engine.model)
            self.reporter.tell(lambda to: to.samples(self.progress.step, samples))

    def _save(self) -> None:
        self.save_is_due = False
        self.saving.begin(
            describe(
                self.config,
                self.corpora,
                self.engine,
                self.origin,
                self.progress,
                loss=self.loss,
                validation_loss=self.validation_loss,
                wandb_run_id=self.reporter.wandb_run_id,
            )
        )

    def _stop(self, reason: str) -> None:
        """End before the schedule does, with everything saved."""
        self.reporter.tell(lambda to: to.stop(self.progress.step, reason))
        self.saving.wait(self.progress.step)
        if self.saving.newest != step_directory(self.config.run_dir, self.progress.step):  # else it is saved already
            self._save()
            self.saving.wait(self.progress.step)
        self.saving.raise_error()
        self.reporter.summary(self.progress)
        raise StoppedOnRequest(
            f"stopped on request after step {self.progress.step}",
            where=self.saving.newest,
            remedy="the same command continues from here",
            on_all_ranks=True,
        )

    def _finish(self) -> None:
        self.saving.wait(self.progress.step)
        self.saving.raise_error()
        self.reporter.tell(lambda to: to.finish(self.progress, self.loss))
        self.reporter.summary(self.progress)
        self.alone.raise_together()

    def _failure(self, what: str, remedy: str) -> ForewordError:
        """An error that all ranks raise, about the step at hand or, between two steps, the last one."""
        where = f"{self.config.run_dir}, step {self.progress.step}"
        return ForewordError(what, where=where, remedy=remedy, on_all_ranks=True)


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
