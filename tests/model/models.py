"""Small models for the tests."""

from dataclasses import fields

from refgss.config import GSS_PYTORCH, PAPER, DSSConfig, LMConfig, dss_softmax
from refgss.layers import kind_of
from refgss.model import initialize, load_checkpoint, save_checkpoint
from refgss.model.weights import quantize

LAYERS = {
    "paper": PAPER,
    "gss-pytorch": GSS_PYTORCH,
    "dss": DSSConfig(),
    "softmax": DSSConfig(form=dss_softmax(64), out_bias=False),
}


def small(layer=PAPER, *, tied=False, seed=1, depth=2, **sizes):
    """Parameters and config of a model of some thousand weights whose sizes no block divides."""
    config = LMConfig(layer, depth, tied=tied)
    memory, vocabulary = sizes.pop("memory", None), sizes.pop("vocabulary", 260)
    wanted = {"width": 33, "gate": 48, "channels": 20, "states": 7} | sizes
    known = {f.name for own in config.layers for f in fields(kind_of(own).Sizes)}
    wanted = {name: size for name, size in wanted.items() if name in known}
    return initialize(config, wanted, vocabulary=vocabulary, memory=memory, seed=seed), config


def saved(folder, name="paper", *, weights="f32", **options):
    """Such a model as a file, and loaded from it."""
    params, config = small(LAYERS[name], **options)
    path = folder / f"{name}-{weights}.safetensors"
    save_checkpoint(path, quantize(params, weights), config)
    return path, load_checkpoint(path)
