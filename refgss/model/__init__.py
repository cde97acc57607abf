"""The language model on any backend: checkpoint, tokenizer, session, sampling, evaluation."""

from refgss.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from refgss.model.initialization import initialize
from refgss.model.tokenizer import tokenizer

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "initialize",
    "load_checkpoint",
    "save_checkpoint",
    "tokenizer",
]
