"""The ground truth: every op of the standard, forward and gradient, in plain NumPy.

Read in this order: discretization, kernel, convolution, recurrence, pointwise, layers,
attention, transformer, window_attention, block_recurrent, language_model.  These are the
definitions, not the fast algorithms.
"""

from refgss import __version__, ops
from refgss.reference.attention import (
    attention,
    attention_step,
    attention_step_vjp,
    attention_vjp,
    rope,
    rope_vjp,
    t5_bias,
    t5_bias_vjp,
)
from refgss.reference.block_recurrent import (
    block_recurrent_layer,
    block_recurrent_layer_vjp,
    block_recurrent_step,
    block_recurrent_step_vjp,
)
from refgss.reference.convolution import causal_conv, causal_conv_vjp
from refgss.reference.discretization import (
    discretize,
    discretize_vjp,
    gss_lambda,
    gss_lambda_vjp,
)
from refgss.reference.initialization import s4d_lambda
from refgss.reference.kernel import ssm_kernel, ssm_kernel_vjp
from refgss.reference.language_model import lm_logits, lm_logits_vjp, lm_loss, lm_loss_vjp
from refgss.reference.layers import dss_layer, dss_layer_vjp, gss_layer, gss_layer_vjp
from refgss.reference.pointwise import (
    dense,
    dense_vjp,
    gate,
    gate_vjp,
    gelu,
    gelu_vjp,
    l2_normalize,
    l2_normalize_vjp,
    layer_norm,
    layer_norm_vjp,
    rms_norm,
    rms_norm_vjp,
)
from refgss.reference.recurrence import ssm_scan, ssm_scan_vjp, ssm_step, ssm_step_vjp
from refgss.reference.stages import probe
from refgss.reference.transformer import transformer_layer, transformer_layer_vjp
from refgss.reference.window_attention import (
    state_attention,
    state_attention_vjp,
    window_attention,
    window_attention_vjp,
)

OPS = tuple(name for name in ops.OPS if name in globals())
__all__ = ["OPS", "capabilities", "probe", *OPS]


def capabilities() -> dict:
    """What this backend claims (GSS-CNF-1): its name, version, ops and profiles."""
    return {
        "name": "refgss.reference",
        "version": __version__,
        "ops": list(OPS),
        "profiles": ["f32", "f64", "paper", "gss-pytorch"],
    }
