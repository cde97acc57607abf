"""Libraries that only some measurements need."""

from __future__ import annotations

import importlib
from typing import Any

from refgss.tensors import ModelError


def library(name: str, metric: str) -> Any:
    """Raises ModelError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ModelError(f"{metric} needs {name}: install refgss[text-metrics]") from e


def sacrebleu() -> Any:
    return library("sacrebleu", "BLEU")


def rouge_score() -> Any:
    return library("rouge_score.rouge_scorer", "ROUGE")
