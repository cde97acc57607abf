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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import refgss
from refgss.files import atomic_write
from refgss.interrupts import interrupts
from refgss.layers.states import State, zero_states
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
        training = Training.prepared(run, folder, habits, start)
        with interrupts() as interrupted:
            while not (training.finished() or interrupted()):
                watch(training.advance())
        training.end()
        if interrupted():
            raise KeyboardInterrupt
        return folder / "model.safetensors"


@dataclass
class Training:
    """A run in its folder: what was made once, and how far it has come."""

    run: Run
    folder: Path
    habits: Habits
    digest: str  # of the prepared text
    windows: Windows
    held_out: np.ndarray  # (windows, recipe.text + 1)
    fresh: State | None  # of texts that begin, where windows go on with those before
    update: Callable[..., Any]  # one step, as in step.functions
    loss: Callable[..., Any]  # params, windows -> loss
    state: TrainingState
    metrics: Metrics

    def __post_init__(self) -> None:
        self.first = self.state.step
        self.began = time.monotonic() - self.state.seconds
        self.warm = time.monotonic()  # when the first step of this process was done

    @classmethod
    def prepared(cls, run: Run, folder: Path, habits: Habits, start: Checkpoint | None) -> Training:
        """From the state in the folder, or from the beginning."""
        try:
            tokenizer = load_tokenizer(run.tokenizer)
        except ValueError as e:
            raise TrainingError(str(e)) from e
        recipe, text = run.recipe, prepare(run.data, tokenizer, folder)
        windows = Windows(text.train, recipe.text, recipe.seed)
        batches = -(-EVALUATED // (recipe.batch * recipe.segments))
        held_out = spaced_windows(text.held_out, recipe.text, batches * recipe.batch)
        initial = to_real(
            initial_params(run, tokenizer.size) if start is None else start.float_params()
        )
        begin, update, loss = functions(run.model, recipe, tuple(sorted(initial)))
        fresh = None
        if recipe.segments > 1:
            fresh = zero_states(to_complex(initial), run.model, recipe.batch)
        state = TrainingState(initial, begin(initial), carried=fresh)
        if (folder / "training.safetensors").exists():
            state = load_state(folder / "training.safetensors", state, run, text.digest)
        metrics = Metrics(folder / "metrics.jsonl", state.step)
        return cls(
            run, folder, habits, text.digest, windows, held_out, fresh, update, loss, state, metrics
        )

    def seconds(self) -> float:
        """That the run has taken, in all its processes."""
        return time.monotonic() - self.began

    def finished(self) -> bool:
        done, recipe = self.state.step, self.run.recipe
        return done >= (self.habits.stop or recipe.steps) or recipe.share(done, self.seconds()) >= 1

    def advance(self) -> Progress:
        """One step, and what is due after it."""
        recipe, habits, done = self.run.recipe, self.habits, self.state.step
        schedule = np.float32(recipe.schedule(done, self.seconds()))
        text, segment = divmod(done, recipe.segments)
        at = segment * recipe.length
        batch = self.windows.batch(text, recipe.batch)[:, at : at + recipe.length + 1]
        carried = self.state.carried if segment else self.fresh
        params, memory, value, norm, carried = self.update(
            self.state.params, self.state.memory, batch, schedule, carried
        )
        loss, size = float(value), float(norm)
        if not (math.isfinite(loss) and math.isfinite(size)):
            raise TrainingError(
                f"the loss or its gradient is no finite number at step {done}: start again in "
                "another folder with a lower rate; the state before is kept"
            )
        done += 1
        self.state = TrainingState(params, memory, done, self.seconds(), carried)
        speed = self.tokens_per_second()
        if done % habits.log == 0 or done == 1:
            self.metrics.write(
                step=done,
                loss=loss,
                gradient_norm=size,
                rate=recipe.rate * float(schedule),
                seconds=round(self.state.seconds, 3),
                tokens_per_second=None if math.isnan(speed) else round(speed, 1),
            )
        if done % habits.evaluate == 0:
            self.evaluate()
        if done % habits.save == 0:
            self.save()
        return Progress(done, recipe.share(done, self.state.seconds), loss, speed)

    def tokens_per_second(self) -> float:
        """NaN after the first step, which compiles."""
        steps, now = self.state.step - self.first, time.monotonic()
        if steps == 1:
            self.warm = now
            return math.nan
        return (steps - 1) * self.run.recipe.batch * self.run.recipe.length / (now - self.warm)

    def evaluate(self) -> None:
        """The loss on the held-out windows, a batch at a time."""
        if not len(self.held_out):
            return
        parts = self.held_out.reshape(-1, self.run.recipe.batch, self.held_out.shape[1])
        losses = [float(self.loss(self.state.params, part)) for part in parts]
        self.metrics.write(step=self.state.step, held_out=float(np.mean(losses)))

    def save(self) -> None:
        state = replace(self.state, seconds=self.seconds())
        save_state(self.folder / "training.safetensors", state, self.run, self.digest)
        save_model(self.folder, state, self.run, self.digest)

    def end(self) -> None:
        """Evaluate and save what was not yet, and draw the loss."""
        if self.state.step > self.first and self.state.step % self.habits.evaluate:
            self.evaluate()
        self.save()
        self.metrics.close()
        tokens = self.run.recipe.batch * self.run.recipe.length
        plot_loss(self.folder / "metrics.jsonl", self.folder / "loss.png", tokens)


def initial_params(run: Run, vocabulary: int) -> dict[str, np.ndarray]:
    sizes = {name: size for name, size in asdict(run.sizes).items() if size is not None}
    memory = sizes.pop("memory", None)
    try:
        return initialize(
            run.model, sizes, vocabulary=vocabulary, memory=memory, seed=run.recipe.seed
        )
    except ValueError as e:
        raise TrainingError(f"there is no such model: {e}") from e


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
