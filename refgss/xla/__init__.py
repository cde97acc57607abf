"""The standard in JAX: every op for CPUs, GPUs and TPUs, under jit, vmap, grad and scan.

Functions have the reference's names and signatures; those with several algorithms also take
`plan=`.  `sequence_parallel` spreads one sequence over many devices: README.md beside this file.
"""

import inspect
from functools import partial
from types import SimpleNamespace

try:
    import jax
except ImportError as e:
    raise ImportError("refgss.xla needs JAX: pip install 'refgss[jax]'") from e

from refgss import __version__, ops
from refgss.xla import ffi
from refgss.xla.attention import attention, attention_step
from refgss.xla.attention_gradients import (
    attention_step_vjp,
    attention_vjp,
    rms_norm_vjp,
    rope_vjp,
    t5_bias_vjp,
    transformer_layer_vjp,
)
from refgss.xla.block_recurrent import block_recurrent_layer, block_recurrent_step
from refgss.xla.block_recurrent_gradients import (
    block_recurrent_layer_vjp,
    block_recurrent_step_vjp,
    gate_vjp,
    l2_normalize_vjp,
    state_attention_vjp,
    window_attention_vjp,
)
from refgss.xla.convolution import causal_conv
from refgss.xla.discretization import discretize, gss_lambda, s4d_lambda
from refgss.xla.gradients import (
    causal_conv_vjp,
    dense_vjp,
    discretize_vjp,
    dss_layer_vjp,
    gelu_vjp,
    gss_lambda_vjp,
    gss_layer_vjp,
    layer_norm_vjp,
    lm_logits_vjp,
    lm_loss_vjp,
    ssm_kernel_vjp,
    ssm_scan_vjp,
    ssm_step_vjp,
)
from refgss.xla.inputs import x64
from refgss.xla.kernel import ssm_kernel
from refgss.xla.language_model import lm_logits, lm_loss
from refgss.xla.layers import dss_layer, gss_layer
from refgss.xla.plan import Plan, plan_for
from refgss.xla.pointwise import dense, gate, gelu, l2_normalize, layer_norm, rms_norm
from refgss.xla.positions import rope, t5_bias
from refgss.xla.recurrence import ssm_scan, ssm_step
from refgss.xla.sharding import sequence_parallel
from refgss.xla.transformer import transformer_layer
from refgss.xla.window_attention import state_attention, window_attention

OPS = tuple(name for name in ops.OPS if name in globals())
__all__ = ["OPS", "Plan", "capabilities", "plan_for", "sequence_parallel", "with_plan", *OPS]


def capabilities() -> dict:
    """What this backend claims (GSS-CNF-1); f64 only where JAX's x64 mode is on.

    arrays: a check gives it JAX's, whose values are known (GSS-CNF-14).
    cpu_kernels says whether a CPU can have the native kernels inside jit, or why not.
    """
    return {
        "name": "refgss.xla",
        "version": __version__,
        "ops": list(OPS),
        "profiles": ["f32", *(["f64"] if x64() else []), "paper", "gss-pytorch"],
        "arrays": "jax",
        "cpu_kernels": ffi.obstacle() or "native",
    }


def with_plan(plan: Plan) -> SimpleNamespace:
    """This backend with a plan for every op that takes one: a backend of its own."""
    ops = {name: globals()[name] for name in OPS}
    planned = {
        name: partial(op, plan=plan) if "plan" in inspect.signature(op).parameters else op
        for name, op in ops.items()
    }
    return SimpleNamespace(**planned, capabilities=capabilities)


plain = with_plan(Plan(cpu_kernels="xla"))  # JAX alone, also where refgss.native is there
