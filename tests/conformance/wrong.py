"""Candidates that are wrong in one way each, for `python:tests/conformance/wrong.py:NAME`."""

import ctypes
import sys
import time
from functools import cached_property

import numpy as np

from refgss import reference
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder


class Gelu:
    """Claims gelu only."""

    def capabilities(self):
        profiles = ["f32", "f64"]
        return {"name": type(self).__name__, "version": "1", "ops": ["gelu"], "profiles": profiles}

    def gelu(self, x):
        return reference.gelu(x)


class Chatty(Gelu):
    def gelu(self, x):
        print("this must not reach the protocol")
        sys.stderr.write("nor this\n")
        return reference.gelu(x)


class Inquisitive(Gelu):
    def gelu(self, x):
        return input("press enter to continue")


class Quad(Gelu):
    def gelu(self, x):
        return reference.gelu(x).astype(np.longdouble)


class Objects(Gelu):
    def gelu(self, x):
        return reference.gelu(x).astype(object)


class Detached(Gelu):
    """Returns a tensor as PyTorch has it while gradients are recorded."""

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use detach() instead")

    def gelu(self, x):
        return self


class Tanh(Gelu):
    def gelu(self, x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))).astype(x.dtype)


class Shape(Gelu):
    def gelu(self, x):
        return reference.gelu(x)[None]


class Dtype(Gelu):
    def gelu(self, x):
        return reference.gelu(x).astype(np.float64 if x.dtype == np.float32 else np.float32)


class Half(Gelu):
    def gelu(self, x):
        return reference.gelu(x).astype(np.float16).astype(x.dtype)


class Nan(Gelu):
    def gelu(self, x):
        return np.full_like(x, np.nan)


class Nothing(Gelu):
    def gelu(self, x):
        return None


class Two(Gelu):
    def gelu(self, x):
        return reference.gelu(x), x


class Raises(Gelu):
    def gelu(self, x):
        raise RuntimeError("no kernel image is available")


class Partial(Gelu):
    def gelu(self, x):
        raise NotImplementedError("tomorrow")


class Segfault(Gelu):
    def gelu(self, x):
        ctypes.string_at(0)


class Hangs(Gelu):
    def gelu(self, x):
        time.sleep(60)


def whole(e):
    """The proven values, where only samples are proven with zeros between them."""
    y = np.zeros(e.full_shape)
    y.ravel()[slice(None) if e.at is None else e.at] = e.hi.ravel()
    return y


class Table(Gelu):
    """Right on the published vectors, by heart."""

    @cached_property
    def known(self):
        vectors = read_vectors(spec_folder() / "vectors").vectors
        return {v.tensors["x"].tobytes(): whole(v.expected["y"]) for v in vectors if v.op == "gelu"}

    def gelu(self, x):
        y = self.known.get(x.astype(np.float32).tobytes())
        return np.zeros_like(x) if y is None else y.astype(x.dtype)


class Trusting(Gelu):
    """Never refuses anything."""

    def capabilities(self):
        return super().capabilities() | {"ops": ["ssm_kernel"]}

    def ssm_kernel(self, lam, c, length, *, delta, form):
        try:
            return reference.ssm_kernel(lam, c, length, delta=delta, form=form)
        except (TypeError, ValueError):
            return np.zeros((len(c), max(length, 0)), c.real.dtype)


class Ambitious(Gelu):
    """Claims what there is not."""

    def capabilities(self):
        more = {"ops": ("gelu", "gelu_jvp"), "profiles": ("f32", "bf32")}
        return super().capabilities() | more


class Boastful(Gelu):
    def capabilities(self):
        return super().capabilities() | {"ops": "all of them", "profiles": None}


class Flat(Gelu):
    """Reads its argument as if it were contiguous."""

    def gelu(self, x):
        memory = ctypes.string_at(x.ctypes.data, x.nbytes)
        return reference.gelu(np.frombuffer(memory, x.dtype).reshape(x.shape))


class Particular(Gelu):
    """Asks its caller for a copy."""

    def gelu(self, x):
        if not x.flags.c_contiguous:
            raise ValueError("x must be contiguous")
        return reference.gelu(x)


class InPlace(Gelu):
    def gelu(self, x):
        x[...] = reference.gelu(x)
        return x.copy()


class Borrowing(Gelu):
    """Works in its argument, and gives it back as it was."""

    def gelu(self, x):
        np.negative(x, out=x)
        np.negative(x, out=x)
        return reference.gelu(x)


class Caching(Gelu):
    """Knows an array again by its address and its shape."""

    @cached_property
    def known(self):
        return {}

    def gelu(self, x):
        key = x.ctypes.data, x.shape, x.dtype
        if key not in self.known:
            self.known[key] = x, reference.gelu(x)  # x too, so that its memory stays taken
        return self.known[key][1].copy()


class Remembering(Gelu):
    """Knows a call again by some of its arguments."""

    @cached_property
    def known(self):
        return {}

    def capabilities(self):
        return super().capabilities() | {"ops": ["causal_conv"]}

    def causal_conv(self, u, k):
        key = u.tobytes(), u.shape, k.shape, k.tobytes() if np.all(k == k[:, :1]) else b""
        if key not in self.known:
            self.known[key] = reference.causal_conv(u, k)
        return self.known[key].copy()


class Buffering(Gelu):
    """Returns a buffer of its own, one for each shape."""

    @cached_property
    def buffers(self):
        return {}

    def gelu(self, x):
        y = self.buffers.setdefault((x.shape, x.dtype), np.empty_like(x, order="C"))
        y[...] = reference.gelu(x)
        return y


class Racing(Gelu):
    """Works where all threads work."""

    def gelu(self, x):
        self.x = x
        self.cdf = reference.elementary.normal_cdf(self.x)
        return np.asarray(self.x * self.cdf, x.dtype)


class Tired(Gelu):
    """Answers each question once."""

    @cached_property
    def seen(self):
        return set()

    def gelu(self, x):
        key = x.dtype, x.shape, x.tobytes()
        tired, _ = key in self.seen, self.seen.add(key)
        return reference.gelu(x) * x.dtype.type(2 if tired else 1)


class JaxGelu(Gelu):
    """Not wrong: it asks for JAX's arrays, and gets them."""

    def capabilities(self):
        return super().capabilities() | {"arrays": "jax", "profiles": ["f32"]}

    def gelu(self, x):
        import jax

        assert isinstance(x, jax.Array)
        return jax.nn.gelu(x, approximate=False)


class TorchGelu(Gelu):
    """Not wrong: it asks for PyTorch's tensors, and gets them."""

    def capabilities(self):
        return super().capabilities() | {"arrays": "torch"}

    def gelu(self, x):
        import torch

        assert isinstance(x, torch.Tensor)
        return torch.nn.functional.gelu(x)


class Cupy(Gelu):
    def capabilities(self):
        return super().capabilities() | {"arrays": "cupy"}
