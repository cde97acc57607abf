"""How a result is computed, where the standard leaves the choice: by platform, or as you say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax


@dataclass(frozen=True)
class Plan:
    """A static argument of every op that has more than one algorithm.

    convolution  "fft", or "matmul": the transform as two matrix products, for matrix units.
    chunk        positions that `ssm_scan` takes at a time, handing the state over; None: all.
                 Memory then grows with the chunk instead of the length.
    length_axis  inside `shard_map`: the mesh axis over which the length is split, each device
                 holding an equal piece; see `refgss.xla.sharding`.
    weights      "full", or "bf16": the matrices of dense maps rounded to bfloat16 (GSS-STA-5).
    """

    convolution: Literal["fft", "matmul"] = "fft"
    chunk: int | None = None
    length_axis: str | None = None
    weights: Literal["full", "bf16"] = "full"

    def __post_init__(self) -> None:
        if self.convolution not in ("fft", "matmul"):
            raise ValueError(f"unknown convolution {self.convolution!r}: use fft or matmul")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {self.chunk}: None takes all at once")
        if self.weights not in ("full", "bf16"):
            raise ValueError(f"unknown weights {self.weights!r}: use full or bf16")


PLATFORMS = {
    "cpu": Plan(),
    "gpu": Plan(),
    "cuda": Plan(),
    "rocm": Plan(),
    "tpu": Plan(convolution="matmul"),
}


def plan_for(platform: str) -> Plan:
    """The fastest plan known for a platform; name it yourself when you compile for another machine.

    Raises ValueError for an unknown platform.
    """
    if platform not in PLATFORMS:
        known = ", ".join(PLATFORMS)
        raise ValueError(f"no plan for the platform {platform!r}: know {known}, or give a Plan")
    return PLATFORMS[platform]


def resolve(plan: Plan | None) -> Plan:
    return plan_for(jax.default_backend()) if plan is None else plan
