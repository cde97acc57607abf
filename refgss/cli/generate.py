"""`refgss generate`: text from a model, as it comes."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import click
import numpy as np

from refgss.cli.arguments import Target
from refgss.cli.models import backend_options, model_and_rest, usable_backend
from refgss.model.documents import READ
from refgss.model.generation import generate as generated
from refgss.model.generation import start
from refgss.model.sampling import Sampling
from refgss.model.session import Session
from refgss.model.snapshot import load_snapshot, save_snapshot
from refgss.model.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer


@click.command()
@click.argument("arguments", nargs=-1, metavar="[MODEL.safetensors] [PROMPT]")
@click.option("--tokens", default=200, show_default=True, type=click.IntRange(0), help="At most.")
@click.option("--temperature", default=0.8, show_default=True, help="0 is greedy.")
@click.option("--top-k", default=0, show_default=True, help="0 is all.")
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--min-p", default=0.0, show_default=True)
@click.option("--repetition-penalty", default=1.0, show_default=True)
@click.option("--stop", "stops", multiple=True, help="End before this text; may be repeated.")
@click.option("--seed", default=0, show_default=True)
@click.option("--load-state", type=click.Path(path_type=Path), help="Continue from this state.")
@click.option("--save-state", type=Target(), help="Save the state at the end.")
@backend_options
def generate(
    arguments: tuple[str, ...],
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
    """Continue a PROMPT, given as an argument or through a pipe.

    The text goes to standard output as it comes, the speed to standard error.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    checkpoint, rest = model_and_rest(arguments)
    if len(rest) > 1:
        raise click.UsageError(f"one prompt at a time: put it in quotes, not {len(rest)} words")
    tokenizer, module = load_tokenizer(checkpoint.tokenizer), usable_backend(backend, threads)
    at = load_snapshot(load_state, checkpoint) if load_state else None
    if at and len(at.recent) != 1:
        raise click.UsageError(f"{load_state} has {len(at.recent)} streams, where one is continued")
    session = Session(checkpoint, backend=module, snapshot=at)

    began = perf_counter()
    before = session.tokens
    start(session, tokenizer)
    for piece in prompt(rest, tokenizer):
        session.prefill(piece[None])
    if session.tokens == 0:
        raise click.UsageError("this model needs a prompt: its tokenizer has no separator")
    report("prefill", session.tokens - before, perf_counter() - began)

    began, before = perf_counter(), session.tokens
    show = codecs.getincrementaldecoder("utf-8")("replace")
    stop_at = tuple(s.encode() for s in stops)
    for text in generated(session, tokenizer, tokens, sampling=sampling, stops=stop_at):
        click.echo(show.decode(text), nl=False)
    click.echo(show.decode(b"", final=True))
    report("decode", session.tokens - before, perf_counter() - began)
    if save_state:
        save_snapshot(save_state, session.snapshot(), checkpoint.digest)


def prompt(rest: tuple[str, ...], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The tokens of the prompt; of a pipe in pieces, where tokens are bytes."""
    if rest:
        yield tokenizer.encode(rest[0].encode("utf-8", "surrogateescape"))
    elif not sys.stdin.isatty():
        pipe = sys.stdin.buffer
        if isinstance(tokenizer, ByteTokenizer):
            while piece := pipe.read(READ):
                yield tokenizer.encode(piece)
        else:
            yield tokenizer.encode(pipe.read())


def report(what: str, tokens: int, seconds: float) -> None:
    click.echo(f"{what}: {tokens} tokens, {tokens / max(seconds, 1e-9):.1f} tok/s", err=True)
