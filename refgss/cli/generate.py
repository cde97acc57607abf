"""`refgss generate`: text from a model, as it comes."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np

from refgss.cli.arguments import Target
from refgss.cli.exits import ExitError
from refgss.cli.models import backend_options, model_and_rest, usable_backend
from refgss.cli.terminal import complain
from refgss.interrupts import interrupts
from refgss.model.documents import READ
from refgss.model.generation import generate as generated
from refgss.model.generation import generate_each, held_back, start
from refgss.model.sampling import Sampling
from refgss.model.session import Session
from refgss.model.snapshot import load_snapshot, save_snapshot
from refgss.model.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
MOST = "Maximum number of tokens to generate."


@click.command(short_help="Continue a prompt.")
@click.argument("arguments", nargs=-1, metavar="[MODEL.safetensors] [PROMPT]...")
@click.option("--prompts", type=FILE, help="File with one more prompt per line.")
@click.option("--tokens", default=200, show_default=True, type=click.IntRange(0), help=MOST)
@click.option(
    "--temperature", default=0.8, show_default=True, help="Sampling temperature; 0 is greedy."
)
@click.option(
    "--top-k", default=0, show_default=True, help="Sample from the K likeliest tokens; 0 means all."
)
@click.option("--top-p", default=1.0, show_default=True, help="Nucleus sampling threshold.")
@click.option(
    "--min-p",
    default=0.0,
    show_default=True,
    help="Drop tokens less likely than this fraction of the likeliest.",
)
@click.option("--repetition-penalty", default=1.0, show_default=True, help="1 means no penalty.")
@click.option("--stop", "stops", multiple=True, help="Stop before this text; may be repeated.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random draws.")
@click.option(
    "--load-state", type=click.Path(path_type=Path), help="Continue from this saved state."
)
@click.option("--save-state", type=Target(), help="Save the state at the end or on Ctrl-C.")
@backend_options
def generate(
    arguments: tuple[str, ...],
    prompts: Path | None,
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    stops: tuple[str, ...],
    seed: int,
    load_state: Path | None,
    save_state: Path | None,
    backend: str | None,
    threads: int | None,
) -> None:
    """Continue one or more PROMPTs, given as arguments or piped in.

    Text streams to standard output, control characters included; speed is reported on standard
    error.  Several prompts are continued together, each exactly as it would be alone, and each is
    shown under a line with its number.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    settings = {"sampling": sampling, "stops": tuple(map(os.fsencode, stops))}
    checkpoint, rest = model_and_rest(arguments)
    texts = [os.fsencode(text) for text in rest]
    if prompts:
        texts += [line for line in prompts.read_bytes().splitlines() if line]
    if len(texts) > 1 and (load_state or save_state):
        raise click.UsageError("a state is that of one prompt: put it in quotes")
    tokenizer, module = load_tokenizer(checkpoint.tokenizer), usable_backend(backend, threads)
    snapshot = load_snapshot(load_state, checkpoint) if load_state else None
    if snapshot and len(snapshot.recent) != 1:
        raise click.UsageError(
            f"{load_state} has {len(snapshot.recent)} streams, where one is continued"
        )
    session = Session(checkpoint, backend=module, snapshot=snapshot, batch=max(len(texts), 1))
    if len(texts) > 1:
        several(session, tokenizer, tokens, texts, settings)
    else:
        one(session, tokenizer, tokens, prompt(texts, tokenizer), settings, save_state)


def one(
    session: Session,
    tokenizer: Tokenizer,
    count: int,
    pieces: Iterable[np.ndarray],
    settings: Mapping[str, Any],
    save_state: Path | None,
) -> None:
    """Continue one prompt, and save the state after the last token that is shown.

    Where the text cannot be shown any more, because the pipe is closed or the disk is full, the
    state is saved all the same.
    """
    shown = Shown()
    with timed("prefill", session):
        start(session, tokenizer)
        for piece in pieces:
            if len(piece):
                shown(held_back(session, tokenizer))  # of the run that saved the state
                session.prefill(piece[None])
    check_has_read(session)
    failure: OSError | None = None
    with interrupts() if save_state else nullcontext(lambda: False) as interrupted:
        hold: dict[str, Any] = {"hold": save_state is not None, "until": interrupted}
        try:
            with timed("decode", session):
                for text in generated(session, tokenizer, count, **settings, **hold):
                    shown(text)
                shown.end()
        except OSError as e:
            failure = e
        if save_state:
            save_snapshot(save_state, session.snapshot(), session.checkpoint.digest)
    if failure:
        raise lost(failure)
    if interrupted():
        raise KeyboardInterrupt


def lost(e: OSError) -> Exception:
    """What to raise where standard output takes no more: nothing is wrong with a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
    if isinstance(e, BrokenPipeError):
        return ExitError(0)
    return OSError(e.errno, e.strerror, "standard output")


def several(
    session: Session,
    tokenizer: Tokenizer,
    count: int,
    texts: Sequence[bytes],
    settings: Mapping[str, Any],
) -> None:
    """Continue several prompts: the first that has not ended is shown as it comes."""
    began = perf_counter()
    start(session, tokenizer)
    session.prefill([tokenizer.encode(text) for text in texts])
    report("prefill", int(session.positions.sum()), perf_counter() - began)
    check_has_read(session)
    waiting: list[list[bytes]] = [[] for _ in texts]
    ended = [False] * len(texts)
    began, made, first = perf_counter(), 0, 0
    shown = Shown(heading(first, len(texts)))
    for piece in generate_each(session, tokenizer, count, **settings):
        made += not piece.last
        waiting[piece.stream].append(piece.text)
        ended[piece.stream] = piece.last
        while first < len(texts):
            while waiting[first]:
                shown(waiting[first].pop(0))
            if not ended[first]:
                break
            shown.end()
            first += 1
            if first < len(texts):
                shown = Shown(heading(first, len(texts)))
    report("decode", made, perf_counter() - began)


def heading(index: int, count: int) -> str:
    return f"--- {index + 1} of {count} ---\n"


class Shown:
    """Text on standard output, in whole characters."""

    def __init__(self, heading: str = ""):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        click.echo(heading, nl=False)

    def __call__(self, text: bytes) -> None:
        click.echo(self._decoder.decode(text), nl=False)

    def end(self) -> None:
        click.echo(self._decoder.decode(b"", final=True))


def prompt(texts: Sequence[bytes], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The tokens of the prompt; of a pipe in pieces, where tokens are bytes."""
    if texts:
        yield tokenizer.encode(texts[0])
    elif sys.stdin and not sys.stdin.isatty():
        pipe = sys.stdin.buffer
        if isinstance(tokenizer, ByteTokenizer):
            while piece := pipe.read(READ):
                yield tokenizer.encode(piece)
        else:
            yield tokenizer.encode(pipe.read())


def check_has_read(session: Session) -> None:
    if not session.positions.all():
        raise click.UsageError("this model needs a prompt: its tokenizer has no separator")


@contextmanager
def timed(what: str, session: Session) -> Iterator[None]:
    """Says on standard error how many tokens the session read, and how fast."""
    before, began = session.tokens, perf_counter()
    yield
    report(what, session.tokens - before, perf_counter() - began)


def report(what: str, tokens: int, seconds: float) -> None:
    complain(f"{what}: {tokens} tokens, {tokens / max(seconds, 1e-9):.1f} tok/s")
