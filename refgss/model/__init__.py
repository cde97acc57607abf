"""The language model on any backend: checkpoint, tokenizer, session, sampling, evaluation."""

from refgss.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from refgss.model.evaluation import evaluate
from refgss.model.generation import generate
from refgss.model.initialization import initialize
from refgss.model.layer_file import load_layer, save_layer
from refgss.model.sampling import Sampling
from refgss.model.session import Session
from refgss.model.snapshot import StateError, load_snapshot, save_snapshot
from refgss.model.tokenizer import load_tokenizer
from refgss.model.weights import dequantize, quantize
from refgss.tensors import ModelError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ModelError",
    "Sampling",
    "Session",
    "StateError",
    "dequantize",
    "evaluate",
    "generate",
    "initialize",
    "load_checkpoint",
    "load_layer",
    "load_snapshot",
    "quantize",
    "save_checkpoint",
    "save_layer",
    "save_snapshot",
    "load_tokenizer",
]
