"""`refgss quantize` and `refgss import`: one model file from another."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from refgss.cli import terminal
from refgss.cli.arguments import Target
from refgss.config import Imag
from refgss.model import load_checkpoint, save_checkpoint
from refgss.model.imports import (
    from_gated_state_spaces_pytorch,
    from_gss_module,
    is_layer,
    read_weights,
)
from refgss.model.layer_file import save_layer
from refgss.model.weights import Weights
from refgss.model.weights import quantize as quantized

FILE = click.Path(path_type=Path)


@click.command(short_help="Store the weights of a model in fewer bits.")
@click.argument("source", type=FILE)
@click.argument("target", type=Target())
@click.option(
    "--weights", type=click.Choice(get_args(Weights)), required=True, help="Format of the matrices."
)
def quantize(source: Path, target: Path, weights: Weights) -> None:
    """Write a copy of the model SOURCE to TARGET with its weights in fewer bits."""
    model = load_checkpoint(source)
    params = quantized(model.float_params(), weights)
    save_checkpoint(target, params, model.config, tokenizer=model.tokenizer, about=model.about)
    before, after = source.stat().st_size, target.stat().st_size
    terminal.say(f"{target}: {weights}, {after} bytes, {after / before:.1%} of {before}")


@click.command("import", short_help="Import weights of gated-state-spaces-pytorch.")
@click.argument("source", type=FILE)
@click.argument("target", type=Target())
@click.option(
    "--imag",
    type=click.Choice(get_args(Imag)),
    default="exp",
    show_default=True,
    help="How Lambda_imag gives Im Λ: its exponential, or itself.",
)
@click.option("--tokenizer", type=FILE, help="A tokenizer.json. Default: bytes.")
def import_(source: Path, target: Path, imag: Imag, tokenizer: Path | None) -> None:
    """Convert weights of gated-state-spaces-pytorch (SOURCE, .pt or .safetensors) to TARGET.

    SOURCE may hold a language model or a single GSS layer.
    """
    weights = read_weights(source)
    if is_layer(weights):
        if tokenizer:
            raise click.UsageError(f"{source} is a single layer, which has no tokenizer")
        save_layer(target, *from_gss_module(weights, imag=imag))
        terminal.say(f"{target}: a single layer, for refgss.model.load_layer")
        return
    params, config = from_gated_state_spaces_pytorch(weights, imag=imag)
    vocabulary = params["embedding.weight"].shape[0]
    description = "raw-bytes" if vocabulary <= 256 else "bytes"
    if tokenizer:
        description = tokenizer.read_text("utf-8", "replace")
    save_checkpoint(target, params, config, tokenizer=description)
    terminal.say(f"{target}: {config.depth} layers, vocabulary {vocabulary}")
