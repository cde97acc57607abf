"""The standard in PyTorch: every op with autograd, under torch.compile and torch.export.

Functions have the reference's names and signatures, and take and give tensors.  Where all are on
the CPU they are the kernels of refgss.native, as custom operators; elsewhere plain PyTorch.
`plain` is that backend on any device.  `GSS`, `DSS`, `TransformerLayer` and `LanguageModel` are
modules with the tensors of a checkpoint.
"""

from typing import Any

try:
    import torch
except ImportError as e:
    raise ImportError("refgss.torch needs PyTorch: pip install 'refgss[torch]'") from e

from refgss import __version__
from refgss.torch import backends, kernels
from refgss.torch.modules import DSS, GSS, LanguageModel, Layer, TransformerLayer

OPS = tuple(backends.OPS)
globals().update(backends.OPS)
__all__ = [
    "OPS",
    "capabilities",
    "plain",
    "DSS",
    "GSS",
    "LanguageModel",
    "Layer",
    "TransformerLayer",
    *OPS,
]


def __getattr__(name: str) -> Any:  # the ops, for who reads types
    raise AttributeError(f"refgss.torch has no {name!r}")


def capabilities() -> dict:
    """What this backend claims (GSS-CNF-1).

    arrays: a check gives it tensors (GSS-CNF-14).  cpu_kernels says whether those on a CPU go to
    the kernels of refgss.native, or why not.
    """
    return {
        "name": "refgss.torch",
        "version": __version__,
        "ops": list(OPS),
        "profiles": ["f32", "f64", "paper", "gss-pytorch"],
        "arrays": "torch",
        "cpu_kernels": kernels.obstacle() or "native",
    }


plain = backends.plain
plain.capabilities = lambda: {**capabilities(), "cpu_kernels": "PyTorch"}
