"""Text for training: which files are held out, one token file, windows in a reproducible order.

A file is held out by the hash of its name: whoever has the same files has the same split.
The tokens of all documents, the separator before each, lie in a file that is mapped, not read.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from refgss.files import atomic_write, replacing
from refgss.model.documents import find_documents, read_tokens
from refgss.model.tokenizer import Tokenizer
from refgss.tensors import ModelError

# installed packages; what differs between builds of one version of Python; and the text of pydoc,
# not source, and longer than half of all the rest that would be held out
NOT_THE_LIBRARY = ("site-packages/", "dist-packages/", "_sysconfigdata", "config-", "pydoc_data/")


class DataError(ModelError):
    """Text that cannot be trained on, in one sentence."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on and what is held out.

    paths          text files and folders; none: the Python standard library of this interpreter.
    suffixes       in folders, only files that end so.
    held_out       the share of files held out, by the hash of their names.
    held_out_tail  the last share of all tokens, held out instead where it is not 0.
    """

    paths: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    held_out: float = 0.05
    held_out_tail: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("held_out", self.held_out), ("held_out_tail", self.held_out_tail)):
            if not 0 <= share < 1:
                raise DataError(f"{name} must be at least 0 and below 1, not {share}")


def standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def is_held_out(name: str, share: float) -> bool:
    """Whether a file of this name (relative, with /) is held out: SHA-256 as a number below 1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < share * 2**64


def name_in(path: Path, folders: Iterable[Path]) -> str:
    """The path relative to the folder that was named, or the file's own name."""
    inside = [path.relative_to(f).as_posix() for f in folders if path.is_relative_to(f)]
    return inside[0] if inside else path.name


def documents(config: DataConfig) -> dict[str, Path]:
    """Names and files, in the order of the files.  Raises DocumentError for what is no text."""
    if not config.paths:
        root = standard_library()
        found = {name_in(p, [root]): p for p in find_documents([root], (".py",))}
        return {n: p for n, p in found.items() if not n.startswith(NOT_THE_LIBRARY)}
    paths = [Path(p) for p in config.paths]
    folders = [p for p in paths if p.is_dir()]
    return {name_in(p, folders): p for p in find_documents(paths, config.suffixes)}


def split(config: DataConfig) -> tuple[dict[str, Path], dict[str, Path]]:
    """Documents to train on, documents held out."""
    found = documents(config)
    share = 0.0 if config.held_out_tail else config.held_out
    held_out = {n: p for n, p in found.items() if is_held_out(n, share)}
    return {n: p for n, p in found.items() if n not in held_out}, held_out


# --- the token file -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Prepared text.

    train, held_out  tokens, mapped; held_out may be empty.
    digest           SHA-256 of all of them.
    """

    train: np.ndarray
    held_out: np.ndarray
    digest: str


def prepare(
    config: DataConfig,
    tokenizer: Tokenizer,
    folder: Path,
) -> Text:
    """The text of `config` as tokens in `folder`, written there unless it is there already.

    Raises DataError where nothing is left to train on, the folder has other text or cannot be
    written; DocumentError for files that are no text.
    """
    config = replace(config, paths=tuple(str(Path(p).resolve()) for p in config.paths))
    wanted = json.loads(json.dumps({"data": asdict(config), "vocabulary": tokenizer.size}))
    tokens, record = folder / "text.tokens", folder / "text.json"
    try:
        if not record.exists():
            write_tokens(config, tokenizer, tokens, record, wanted)
        found = json.loads(record.read_bytes())
        if any(found[key] != wanted[key] for key in wanted):
            raise DataError(f"{folder} has other text than is asked for: choose another folder")
        stored = np.memmap(tokens, token_type(tokenizer), "r")
        if len(stored) != found["tokens"]:
            raise ValueError(f"{tokens.name} has another length")
        return Text(stored[: found["train"]], stored[found["train"] :], found["digest"])
    except OSError as e:
        raise DataError(f"{e.filename or tokens} cannot be read or written: {e.strerror}") from e
    except (KeyError, TypeError, ValueError) as e:
        if isinstance(e, ModelError):
            raise
        raise DataError(
            f"the prepared text in {folder} is damaged ({e}): remove {record}, and it is made anew"
        ) from e


def token_type(tokenizer: Tokenizer) -> str:
    return "<u2" if tokenizer.size <= 1 << 16 else "<i4"


def write_tokens(
    config: DataConfig,
    tokenizer: Tokenizer,
    path: Path,
    record: Path,
    wanted: Mapping[str, Any],
) -> None:
    """The tokens to train on, then those held out; at last the record, which vouches for them."""
    train, held_out = split(config)
    digest, count, until = hashlib.sha256(), 0, 0
    between = [] if tokenizer.separator is None else [np.array([tokenizer.separator], np.int32)]
    with replacing(path) as file:
        for files in (train, held_out):
            until = count
            for document in files.values():
                for tokens in (*between, *read_tokens(document, tokenizer)):
                    content = tokens.astype(token_type(tokenizer)).tobytes()
                    digest.update(content)
                    file.write(content)
                    count += len(tokens)
    if config.held_out_tail:
        until = round(count * (1 - config.held_out_tail))
    if not until:
        raise DataError("all of the text is held out: give more files, or --held-out-tail 0.1")
    names = {"files": list(train), "files_held_out": list(held_out)}
    made = {**wanted, "tokens": count, "train": until, "digest": digest.hexdigest(), **names}
    atomic_write(record, json.dumps(made, indent=1) + "\n")


# --- windows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Windows of length + 1 tokens, each token a target once an epoch, in an order of the seed.

    Window i belongs to epoch i // count, whose grid is shifted and permuted by (seed, epoch): what
    step comes next is all there is to remember.  Raises DataError where the text has no window.
    """

    tokens: np.ndarray
    length: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.tokens) <= self.length:
            raise DataError(
                f"the text to train on has {len(self.tokens)} tokens, fewer than one window of "
                f"{self.length} and its target: give more text, or a smaller --length"
            )

    @property
    def count(self) -> int:
        """Windows in an epoch: one fewer than fit, to leave room for the shift."""
        return max((len(self.tokens) - 1) // self.length - 1, 1)

    def batch(self, step: int, size: int) -> np.ndarray:
        """(size, length + 1) int32: windows step·size … (step + 1)·size - 1."""
        which = np.arange(step * size, (step + 1) * size)
        starts = [epoch_starts(self, i // self.count)[i % self.count] for i in which.tolist()]
        return np.stack([self.tokens[s : s + self.length + 1] for s in starts]).astype(np.int32)


@lru_cache(maxsize=2)
def order(room: int, count: int, length: int, seed: int, epoch: int) -> np.ndarray:
    rng = np.random.default_rng([seed, epoch])
    return rng.integers(room) + length * rng.permutation(count)


def epoch_starts(windows: Windows, epoch: int) -> np.ndarray:
    room = len(windows.tokens) - windows.count * windows.length
    return order(min(room, windows.length), windows.count, windows.length, windows.seed, epoch)


def spaced_windows(tokens: np.ndarray, length: int, count: int) -> np.ndarray:
    """(count, length + 1) int32, evenly spaced; (0, length + 1) where the text has no window."""
    if len(tokens) <= length:
        return np.zeros((0, length + 1), np.int32)
    starts = np.linspace(0, len(tokens) - length - 1, count, dtype=np.int64)
    return np.stack([tokens[s : s + length + 1] for s in starts]).astype(np.int32)
