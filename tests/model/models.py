"""Small models for the tests."""

from refgss.config import GSS_PYTORCH, PAPER, DSSConfig, LMConfig, dss_softmax
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
    wanted = {"vocabulary": 260, "width": 33, "gate": 48, "channels": 20, "states": 7} | sizes
    if isinstance(layer, DSSConfig):
        wanted |= {"gate": None, "channels": None}
    return initialize(config, seed=seed, **wanted), config


def saved(folder, name="paper", *, weights="f32", **options):
    """Such a model as a file, and loaded from it."""
    params, config = small(LAYERS[name], **options)
    path = folder / f"{name}-{weights}.safetensors"
    save_checkpoint(path, quantize(params, weights), config)
    return path, load_checkpoint(path)
