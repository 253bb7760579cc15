"""A run at Weights & Biases: a copy of what metrics.jsonl holds, which may fail without the run being any worse for it.

It is started before the first step, and what is wrong by then is an error: no key, no network. Later nothing here stops
or delays training. wandb's own process sends by itself, and keeps everything on the disk (RUN/wandb) for `wandb sync`;
when that process dies, a warning says so, and records go to metrics.jsonl alone.
"""

import netrc
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from foreword.console import warn
from foreword.errors import ConfigError, MachineError
from pipeline.config.run import WandbConfig
from pipeline.config.train import TrainConfig

HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # of the public service, in older and newer versions of wandb
MODES = ("online", "offline", "disabled")
START_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 30.0  # at the end of a run without a network


class WandbRun:
    """A run that has been started; see `start_wandb`.

    Attributes:
        id: goes into each checkpoint, so that a resumed run continues the same one.
    """

    def __init__(self, run: Any) -> None:
        self.id: str = run.id
        self._run = run

    def log(self, values: Mapping[str, Any]) -> None:
        """Send the numbers of a record; its "step" is the axis. Never raises."""
        if self._run is not None:
            try:
                self._run.log(dict(values))
            except Exception as error:  # wandb's process is gone; what it raises is not its own kind of error
                self._give_up(error)

    def finish(self) -> None:
        """Wait until everything is sent, for a while. Never raises."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        import wandb

        self._run = None
        with suppress(Exception):  # it has nobody to say goodbye to; untried, it would try when Python exits
            wandb.teardown()
        reason = f"{type(error).__name__}: {error}"
        warn(
            f"Weights & Biases hears no more of this run, metrics.jsonl goes on ({reason}); `wandb sync` sends the rest"
        )


def start_wandb(config: TrainConfig, run_id: str | None) -> WandbRun | None:
    """Start a run, or continue the one with `run_id`; None where the mode is disabled.

    Raises:
        ConfigError: WANDB_MODE is not a mode.
        MachineError: it cannot be started: no key, or an answer has not come in 30 s.
    """
    mode = wandb_mode(config.logging.wandb)
    if mode == "disabled":
        return None
    import wandb

    try:
        run = wandb.init(
            project=config.logging.wandb.project,
            name=config.logging.wandb.name,
            dir=config.run_dir,
            id=run_id,
            # offline too: it makes `wandb sync` append this segment to the one before instead of overwriting it
            resume="allow",
            mode=mode,  # type: ignore[arg-type]
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=START_TIMEOUT_S, finish_timeout=FINISH_TIMEOUT_S
            ),
        )
    except wandb.Error as error:
        remedy = "mend it, or set logging.wandb.mode to offline and `wandb sync` the run later"
        raise MachineError(f"Weights & Biases could not be started: {error}", remedy=remedy) from None
    # wandb counts the records of each start from 0: the record's own step is the axis
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return WandbRun(run)


def wandb_mode(config: WandbConfig) -> str:
    """online, offline or disabled: `auto` follows WANDB_MODE, and is online only where an API key is at hand.

    Raises:
        ConfigError: WANDB_MODE is none of these.
    """
    if config.mode != "auto":
        return config.mode
    if mode := os.environ.get("WANDB_MODE"):
        if mode not in MODES:
            remedy = f"set it to one of {', '.join(MODES)}, or unset it"
            raise ConfigError(f"{mode!r} is not a mode of Weights & Biases", where="WANDB_MODE", remedy=remedy)
        return mode
    return "online" if key_place(os.environ, Path.home()) else "offline"


def key_place(environment: Mapping[str, str], home: Path) -> str | None:
    """Where the API key is, of the public service or of the server that WANDB_BASE_URL names; None without one."""
    if environment.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    server = environment.get("WANDB_BASE_URL")
    hosts = (urlsplit(server).netloc,) if server else HOSTS
    path = Path(environment.get("NETRC", home / ".netrc"))
    try:
        known = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return None  # no readable key there is the same as no key
    return str(path) if any(host in known for host in hosts) else None
