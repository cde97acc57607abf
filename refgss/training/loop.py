"""The training loop: the same folder and the same options continue a run that was stopped.

The folder has text.tokens and text.json (the prepared text), training.safetensors (the state),
model.safetensors (the model, as the state has it), metrics.jsonl and loss.png.
"""

from __future__ import annotations

import fcntl
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import refgss
from refgss.files import atomic_write
from refgss.interrupts import interrupts
from refgss.model.checkpoint import Checkpoint, save_checkpoint
from refgss.model.initialization import initialize
from refgss.model.tokenizer import load_tokenizer
from refgss.schemas import parse
from refgss.training.data import Windows, prepare, spaced_windows
from refgss.training.optimizers import to_complex, to_real
from refgss.training.plot import plot_loss
from refgss.training.recipe import Run, TrainingError
from refgss.training.state import TrainingState, description, load_state, save_state
from refgss.training.step import functions

EVALUATED = 64  # windows of the held-out text, the same every time


@dataclass(frozen=True)
class Habits:
    """What changes no number of a run.

    log, evaluate, save  steps between lines of metrics, held-out losses, states.
    stop                 the step after which to stop before the end, to go on some other time.
    """

    log: int = 10
    evaluate: int = 250
    save: int = 250
    stop: int | None = None


@dataclass(frozen=True)
class Progress:
    """What a watcher is told after every step."""

    step: int
    share: float
    loss: float
    tokens_per_second: float


def train(
    run: Run,
    folder: Path,
    habits: Habits = Habits(),
    watch: Callable[[Progress], object] = lambda progress: None,
    start: Checkpoint | None = None,
) -> Path:
    """Train in `folder`, from the state there if there is one, and return the model's file.

    start is the checkpoint that run.start names.  Interrupted by SIGINT it saves its state first.
    Raises ModelError for what the user can put right: text, folder, disk, the options of another
    run, a loss that is no number.
    """
    with alone_in(folder):
        return train_alone(run, folder, habits, watch, start)


def train_alone(
    run: Run,
    folder: Path,
    habits: Habits,
    watch: Callable[[Progress], object],
    start: Checkpoint | None,
) -> Path:
    try:
        tokenizer = load_tokenizer(run.tokenizer)
    except ValueError as e:
        raise TrainingError(str(e)) from e
    text = prepare(run.data, tokenizer, folder)
    windows = Windows(text.train, run.recipe.length, run.recipe.seed)
    batches = -(-EVALUATED // run.recipe.batch)
    held_out = spaced_windows(text.held_out, run.recipe.length, batches * run.recipe.batch)
    initial = to_real(
        initial_params(run, tokenizer.size) if start is None else start.float_params()
    )
    begin, step, loss = functions(run.model, run.recipe, tuple(sorted(initial)))
    state = TrainingState(initial, begin(initial))
    if (folder / "training.safetensors").exists():
        state = load_state(folder / "training.safetensors", state, run, text.digest)
    metrics = Metrics(folder / "metrics.jsonl", state.step)

    params, memory = state.params, state.memory
    recipe, done = run.recipe, state.step
    began, first = time.monotonic() - state.seconds, state.step

    def save() -> None:
        state = TrainingState(params, memory, done, time.monotonic() - began)
        save_state(folder / "training.safetensors", state, run, text.digest)
        save_model(folder, state, run, text.digest)

    def evaluate() -> None:
        if len(held_out):
            metrics.write(step=done, held_out=mean_loss(loss, params, held_out, recipe.batch))

    warm = time.monotonic()
    stop = habits.stop or recipe.steps
    with interrupts() as interrupted:
        while not (done >= stop or recipe.share(done, time.monotonic() - began) >= 1):
            if interrupted():
                break
            seconds = time.monotonic() - began
            schedule = np.float32(recipe.schedule(done, seconds))
            batch = windows.batch(done, recipe.batch)
            params, memory, value, norm = step(params, memory, batch, schedule)
            nats, size = float(value), float(norm)
            if not (math.isfinite(nats) and math.isfinite(size)):
                raise TrainingError(
                    f"the loss or its gradient is no finite number at step {done}: start again in "
                    "another folder with a lower rate; the state before is kept"
                )
            done += 1
            now = time.monotonic()
            if done == first + 1:
                warm, speed = now, math.nan  # the first step compiles
            else:
                speed = (done - first - 1) * recipe.batch * recipe.length / (now - warm)
            watch(Progress(done, recipe.share(done, now - began), nats, speed))
            if done % habits.log == 0 or done == 1:
                metrics.write(
                    step=done,
                    loss=nats,
                    gradient_norm=size,
                    rate=recipe.rate * float(schedule),
                    seconds=round(now - began, 3),
                    tokens_per_second=None if math.isnan(speed) else round(speed, 1),
                )
            if done % habits.evaluate == 0:
                evaluate()
            if done % habits.save == 0:
                save()
    if done > first and done % habits.evaluate:
        evaluate()
    save()
    metrics.close()
    plot_loss(folder / "metrics.jsonl", folder / "loss.png", recipe.batch * recipe.length)
    if interrupted():
        raise KeyboardInterrupt
    return folder / "model.safetensors"


def initial_params(run: Run, vocabulary: int) -> dict[str, np.ndarray]:
    sizes = {name: size for name, size in asdict(run.sizes).items() if size is not None}
    memory = sizes.pop("memory", None)
    try:
        return initialize(
            run.model, sizes, vocabulary=vocabulary, memory=memory, seed=run.recipe.seed
        )
    except ValueError as e:
        raise TrainingError(f"there is no such model: {e}") from e


def mean_loss(loss: Any, params: Any, windows: np.ndarray, batch: int) -> float:
    """Over all windows, a batch at a time."""
    parts = windows.reshape(-1, batch, windows.shape[1])
    return float(np.mean([float(loss(params, part)) for part in parts]))


def save_model(folder: Path, state: TrainingState, run: Run, digest: str) -> None:
    params = {name: np.asarray(x) for name, x in to_complex(state.params).items()}
    about = {
        "made_by": f"refgss {refgss.__version__} train",
        "step": state.step,
        **description(run, digest),
    }
    about["run"].pop("tokenizer")  # a key of its own
    about["run"]["data"]["paths"] = list(run.data.paths)
    file = folder / "model.safetensors"
    save_checkpoint(file, params, run.model, tokenizer=run.tokenizer, about=about)


class Metrics:
    """JSON lines; those after `step` are of a future that was lost, and removed."""

    def __init__(self, path: Path, step: int):
        self._path = path
        try:
            atomic_write(
                path, "".join(x for x in whole_lines(path) if json.loads(x)["step"] <= step)
            )
            self._file = open(path, "a", encoding="utf-8")
        except OSError as e:
            raise TrainingError(f"{path} cannot be written: {e.strerror}") from e

    def write(self, **fields: Any) -> None:
        try:
            self._file.write(json.dumps(fields) + "\n")
            self._file.flush()
        except OSError as e:
            raise TrainingError(
                f"{self._path} cannot be written ({e.strerror}): the state saved last is kept; "
                "free some space and repeat the command"
            ) from e

    def close(self) -> None:
        self._file.close()


def whole_lines(path: Path) -> Iterator[str]:
    """The lines before the first that a crash cut short."""
    if not path.exists():
        return
    for line in path.read_text("utf-8", "replace").splitlines(keepends=True):
        try:
            values = parse(line)
        except ValueError:
            return
        if not line.endswith("\n") or not isinstance(values, dict):
            return
        if not isinstance(values.get("step"), int):
            return
        yield line


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No second run in the folder; what a killed one left half written is removed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in folder.glob(".*.tmp"):
            left.unlink()
    except BlockingIOError as e:
        raise TrainingError(f"a run is going on in {folder}: choose another folder") from e
    except OSError as e:
        raise TrainingError(f"the folder {folder} cannot be written: {e.strerror}") from e
    with file:
        yield
