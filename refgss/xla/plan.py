"""How a result is computed, where the standard leaves the choice: by platform, or as you say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import jax

from refgss.xla import ffi


@dataclass(frozen=True)
class Plan:
    """A static argument of every op that has more than one algorithm.

    convolution  "fft", or "matmul": the transform as two matrix products, for matrix units.
    chunk        positions that `ssm_scan` takes at a time, handing the state over; None: all.
                 Memory then grows with the chunk instead of the length.
    length_axis  inside `shard_map`: the mesh axis over which the length is split, each device
                 holding an equal piece; see `refgss.xla.sharding`.
    gate         positions of all sequences together that a GSS layer's gate branch, or the MLP of a
                 transformer layer, takes at a time, its backward pass computing it again: training
                 then holds (gate,F) numbers where it held (BL,F) several times over, for a quarter
                 more work.  None: all at once.
    weights      "full", or "bf16": the matrices of dense maps rounded to bfloat16 (GSS-STA-5).
    precision    of the dense maps, attention and their gradients: "highest", that of the operands,
                 or JAX's "high", which does not conform (GSS-ACC-6): three products of bfloat16 on
                 a TPU, TF32 on a GPU.  A CPU computes both alike.
    cpu_kernels  "xla", or "native": custom calls into refgss.native, which make their own choice of
                 convolution and chunk; CPUs only, no `jvp`.  None: native where JAX's default
                 platform is one CPU device and refgss.native is there.
    """

    convolution: Literal["fft", "matmul"] = "fft"
    chunk: int | None = None
    gate: int | None = None
    length_axis: str | None = None
    weights: Literal["full", "bf16"] = "full"
    precision: Literal["highest", "high"] = "highest"
    cpu_kernels: Literal["native", "xla"] | None = None

    def __post_init__(self) -> None:
        if self.convolution not in ("fft", "matmul"):
            raise ValueError(f"unknown convolution {self.convolution!r}: use fft or matmul")
        for name, size in (("chunk", self.chunk), ("gate", self.gate)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}: None takes all at once")
        if self.weights not in ("full", "bf16"):
            raise ValueError(f"unknown weights {self.weights!r}: use full or bf16")
        if self.precision not in ("highest", "high"):
            raise ValueError(f"unknown precision {self.precision!r}: use highest or high")
        if self.cpu_kernels not in (None, "native", "xla"):
            raise ValueError(f"unknown cpu_kernels {self.cpu_kernels!r}: use native or xla")
        if self.cpu_kernels == "native" and (why := ffi.obstacle()):
            raise ValueError(f"cpu_kernels='native' cannot be used here: {why}")

    @property
    def native(self) -> bool:
        return self.cpu_kernels == "native"

    @property
    def native_layers(self) -> bool:
        """A whole layer, and a whole scan, is one native kernel."""
        return self.native and self.length_axis is None


PLATFORMS = {
    "cpu": Plan(),
    "gpu": Plan(cpu_kernels="xla"),
    "cuda": Plan(cpu_kernels="xla"),
    "rocm": Plan(cpu_kernels="xla"),
    "tpu": Plan(convolution="matmul", cpu_kernels="xla"),
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
    """The plan with nothing left open."""
    plan = plan_for(jax.default_backend()) if plan is None else plan
    if plan.cpu_kernels is not None:
        return plan
    return replace(plan, cpu_kernels="native" if ffi.preferred() else "xla")
