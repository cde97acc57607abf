"""The C++ backend: the ops of refgss.reference, as fast as the machine allows.

NumPy arrays of float32 or float64 in, fresh arrays out; no silent copies of another type.  Beyond
the contract: `Spectrum` and `ConvStream` (convolution), `Prepared` and `Stepper` (recurrence),
`PreparedLayer`, and `Decoder` (a language model, streaming).
"""

import refgss.native.interpreter

try:
    from refgss.native._core import get_num_threads, set_num_threads, simd
except ImportError as error:
    from refgss.native.missing import reason

    raise ImportError(reason(error)) from None

from refgss import __version__, ops
from refgss.native.attention import (
    attention,
    attention_step,
    attention_step_vjp,
    attention_vjp,
    rope,
    rope_vjp,
    t5_bias,
    t5_bias_vjp,
)
from refgss.native.block_recurrent import (
    block_recurrent_layer,
    block_recurrent_layer_vjp,
    block_recurrent_step,
    block_recurrent_step_vjp,
)
from refgss.native.convolution import ConvStream, Spectrum, causal_conv, causal_conv_vjp
from refgss.native.decoder import Decoder
from refgss.native.layers import (
    PreparedLayer,
    dss_layer,
    dss_layer_vjp,
    gss_layer,
    gss_layer_vjp,
    lm_logits,
    lm_logits_vjp,
    lm_loss,
    lm_loss_vjp,
)
from refgss.native.pointwise import (
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
from refgss.native.state_space import (
    Prepared,
    Stepper,
    discretize,
    discretize_vjp,
    gss_lambda,
    gss_lambda_vjp,
    ssm_kernel,
    ssm_kernel_vjp,
    ssm_scan,
    ssm_scan_vjp,
    ssm_step,
    ssm_step_vjp,
)
from refgss.native.transformer import transformer_layer, transformer_layer_vjp
from refgss.native.window_attention import (
    state_attention,
    state_attention_vjp,
    window_attention,
    window_attention_vjp,
)
from refgss.reference import s4d_lambda

DELEGATED = ("s4d_lambda",)  # the reference's own: work of O(N)
COMPOSED = (  # the reference's text over native ops
    "lm_logits",
    "lm_logits_vjp",
    "lm_loss",
    "lm_loss_vjp",
    "transformer_layer",
    "transformer_layer_vjp",
    "block_recurrent_layer",
    "block_recurrent_layer_vjp",
    "block_recurrent_step",
    "block_recurrent_step_vjp",
)

OPS = tuple(name for name in ops.OPS if name in globals())
__all__ = [
    "OPS",
    "capabilities",
    "ConvStream",
    "Decoder",
    "Prepared",
    "PreparedLayer",
    "Spectrum",
    "Stepper",
    "get_num_threads",
    "set_num_threads",
    "simd",
    *OPS,
]


def capabilities() -> dict:
    """What this backend claims (GSS-CNF-1), what it borrows, and how it runs."""
    return {
        "name": "refgss.native",
        "version": __version__,
        "ops": list(OPS),
        "profiles": ["f32", "f64", "paper", "gss-pytorch"],
        "delegated": list(DELEGATED),
        "composed": list(COMPOSED),
        "simd": simd(),
        "threads": get_num_threads(),
    }
