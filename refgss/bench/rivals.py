"""Rivals: what one writes with PyTorch, JAX, SciPy or NumPy, in its best layout.

Each class is one library: `start` fixes its threads and names its version, and a method per work
returns what is timed.  Layout, twice the length for the FFT, and powers of Λ in the working
precision are the customary ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refgss.bench.works import Data
from refgss.reference.attention import buckets


def of_window(W: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a window's tokens and 2W keys: the bucket of each distance, and what is seen, (W,2W)."""
    distance = np.arange(W)[:, None] + W - np.arange(2 * W)
    seen = (distance >= 1) & (distance <= W)
    return buckets(W + 1)[np.clip(distance, 0, W)], seen


class Torch:
    def start(self, threads: int) -> str:
        import torch

        torch.set_num_threads(threads)
        self.torch: Any = torch
        return f"PyTorch {torch.__version__}"

    def tensors(self, d: Data, *names: str, grad: bool = False) -> list[Any]:
        made = [self.torch.from_numpy(np.ascontiguousarray(d[n])) for n in names]
        return [t.requires_grad_() for t in made] if grad else made

    def spectral(self, u: Any, kf: Any) -> Any:
        """u (B,H,L) with the kernel's spectrum; the last axis is the fast one."""
        L = u.shape[-1]
        return self.torch.fft.irfft(self.torch.fft.rfft(u, 2 * L) * kf, 2 * L)[..., :L]

    def conv(self, d: Data) -> Callable:
        u, k = self.tensors(d, "u", "k")
        u = u.transpose(1, 2).contiguous()
        fft = self.torch.fft
        return lambda: self.spectral(u, fft.rfft(k, 2 * u.shape[-1])).transpose(1, 2)

    def conv_cached(self, d: Data) -> Callable:
        u, k = self.tensors(d, "u", "k")
        u = u.transpose(1, 2).contiguous()
        kf = self.torch.fft.rfft(k, 2 * u.shape[-1])
        return lambda: self.spectral(u, kf).transpose(1, 2)

    def kernel_of(self, lam: Any, c: Any, length: int) -> Any:
        """Real products: twice as fast as the complex one."""
        torch = self.torch
        w = c * ((torch.exp(lam) - 1) / lam)
        p = torch.exp(lam[:, None] * torch.arange(length))
        return w.real @ p.real - w.imag @ p.imag

    def kernel(self, d: Data) -> Callable:
        lam, c = self.tensors(d, "lam", "c")
        return lambda: self.kernel_of(lam, c, d["L"])

    def scan(self, d: Data) -> Callable:
        torch = self.torch
        lam, c, u, x = self.tensors(d, "lam", "c", "u", "state")
        L = u.shape[1]

        def run() -> Any:
            w = c * ((torch.exp(lam) - 1) / lam)
            p = torch.exp(lam[:, None] * torch.arange(L + 1))
            k = w.real @ p[:, :L].real - w.imag @ p[:, :L].imag
            y = self.spectral(u.transpose(1, 2), torch.fft.rfft(k, 2 * L)).transpose(1, 2)
            y = y + torch.einsum("bhn,nl->blh", x * w, p[:, 1:]).real
            torch.einsum("blh,nl->bhn", u.to(lam.dtype), p[:, :L].flip(1)) + p[:, L] * x
            return y

        return run

    def step(self, d: Data) -> Callable:
        torch = self.torch
        lam, c, u, x = self.tensors(d, "lam", "c", "u", "state")
        abar, w, u = torch.exp(lam), c * ((torch.exp(lam) - 1) / lam), u[:, 0]

        def run() -> Any:
            x1 = abar * x + u[..., None]
            return torch.einsum("hn,bhn->bh", w, x1).real[:, None]

        return run

    def layer(self, d: Data) -> Callable:
        torch, F = self.torch, self.torch.nn.functional
        p = {k: torch.from_numpy(v) for k, v in d["params"].items()}
        x = torch.from_numpy(d["x"])
        L = x.shape[1]
        lam = torch.complex(-torch.exp(p["ssm.a"]), torch.exp(p["ssm.b"]))
        kf = torch.fft.rfft(self.kernel_of(lam, p["ssm.c"], L), 2 * L)

        def run() -> Any:
            with torch.inference_mode():
                h = F.layer_norm(x, x.shape[-1:], p["norm.weight"], p["norm.bias"], 1e-5)
                v, u = F.gelu(h @ p["w_v"]), F.gelu(h @ p["w_u"])
                y = self.spectral(u.transpose(1, 2), kf).transpose(1, 2) + p["ssm.d"] * u
                return (y @ p["w_uc"] * v) @ p["w_o"] + x

        return run

    def train(self, d: Data) -> Callable:
        torch = self.torch
        lam, c, u = self.tensors(d, "lam", "c", "u", grad=True)
        (dy,) = self.tensors(d, "dy")
        L = u.shape[1]

        def run() -> Any:
            k = self.kernel_of(lam, c, L)
            y = self.spectral(u.transpose(1, 2), torch.fft.rfft(k, 2 * L)).transpose(1, 2)
            torch.autograd.grad(y, (lam, c, u), dy)
            return y.detach()

        return run

    def attend(self, d: Data, grad: bool) -> dict[str, tuple[Callable, int]]:
        """Each chunk by itself, heads first as it is fastest; and all at once, with a mask."""
        torch, attend = self.torch, self.torch.nn.functional.scaled_dot_product_attention
        chunks, C, heads, D = d["q"].shape
        own = [t.transpose(1, 2).contiguous() for t in self.tensors(d, "q", "k", "v", "dy")]
        all_at_once = [
            t.reshape(1, chunks * C, heads, D).transpose(1, 2).contiguous()
            for t in self.tensors(d, "q", "k", "v", "dy")
        ]
        mask = torch.block_diag(*[torch.ones(C, C).tril()] * chunks).bool()

        def way(arrays: list[Any], how: Mapping[str, Any]) -> Callable:
            *qkv, dy = arrays
            for x in qkv:
                x.requires_grad_(grad)

            def run() -> Any:
                y = attend(*qkv, **how)
                if grad:
                    torch.autograd.grad(y, qkv, dy)
                return y.detach().transpose(1, 2).unflatten(1, (-1, C)).flatten(0, 1)

            return run

        return {
            "torch": (way(own, {"is_causal": True}), 1),
            "torch, with a mask": (way(all_at_once, {"attn_mask": mask}), 1),
        }

    def attention(self, d: Data) -> dict[str, tuple[Callable, int]]:
        return self.attend(d, False)

    def attention_train(self, d: Data) -> dict[str, tuple[Callable, int]]:
        return self.attend(d, True)

    def recurrent(self, d: Data, grad: bool) -> Callable:
        """Windows as a batch, each beside the one before; the states one after another."""
        torch, c = self.torch, d["config"]
        p = {k: torch.from_numpy(v) for k, v in d["params"].items()}
        x, dy = self.tensors(d, "x", "dy")
        W, H = c.window, c.heads
        bucket, seen = (torch.from_numpy(a) for a in of_window(W))
        for t in (x, *p.values()):
            t.requires_grad_(grad)

        def norm(x: Any, weight: Any) -> Any:
            return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, c.eps)

        def heads(x: Any, name: str, unit: bool = True) -> Any:
            """(...,T,E) -> (...,H,T,D), of length 1 or as they are."""
            y = (x @ p[name]).unflatten(-1, (H, -1)).transpose(-3, -2)
            return y * torch.rsqrt((y * y).sum(-1, keepdim=True) + 1e-6) if unit else y

        def attend(q: Any, k: Any, v: Any, scale: str, mask: Any = None) -> Any:
            y = torch.nn.functional.scaled_dot_product_attention(
                q * p[scale].abs()[:, None, None], k, v, attn_mask=mask, scale=1.0
            )
            return y.transpose(-3, -2).flatten(-2)

        def renewed(s: Any, h: Any, keys: Any, values: Any) -> tuple[Any, Any]:
            """The next state, and what the tokens see of this one."""
            k, v = heads(h, "state.w_k"), heads(h, "state.w_v", False)
            own = attend(heads(h, "state.w_q"), k, v, "state.scale")
            to = attend(heads(h, "state.w_q2"), keys, values, "state.scale2")
            gate = torch.sigmoid(p["state.gate1.b_f"])
            return s * gate + (torch.cat([own, to], -1) @ p["state.w_o"]) * (1 - gate), (k, v)

        def forward() -> Any:
            h = norm(x[0].unflatten(0, (-1, W)), p["norm1.weight"])  # (windows,W,E)
            k, v = heads(h, "w_k"), heads(h, "w_v", False)
            before = [torch.cat([torch.zeros_like(t[:1]), t[:-1]]) for t in (k, v)]
            keys, values = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
            bias = p["position.table"][:, bucket] * p["scale"].abs()[:, None, None]
            mask = torch.where(seen, bias, -torch.inf)
            y = attend(heads(h, "w_q"), keys, values, "scale", mask)
            s, q2, to_state = p["state.initial"], heads(h, "w_q2"), []
            for w in range(len(h)):
                hs = norm(s, p["state.norm1.weight"]) + p["state.ids"]
                s, of_state = renewed(s, hs, keys[w], values[w])
                to_state.append(attend(q2[w], of_state[0], of_state[1], "scale2"))
            x1 = x[0] + (torch.cat([y, torch.stack(to_state)], -1) @ p["w_o"]).flatten(0, 1)
            m = torch.relu(norm(x1, p["norm2.weight"]) @ p["w_1"])
            return (x1 + m @ p["w_2"])[None]

        def run() -> Any:
            y = forward()
            if grad:
                torch.autograd.grad(y, (x, *p.values()), dy, allow_unused=True)
            return y.detach()

        return run

    def block_recurrent(self, d: Data) -> Callable:
        return self.recurrent(d, False)

    def block_recurrent_train(self, d: Data) -> Callable:
        return self.recurrent(d, True)

    def language_model(self, d: Data) -> TorchModel:
        return TorchModel(self.torch, d["params"], d["config"].layer.eps, len(d["tokens"]))

    def decode(self, d: Data) -> dict[str, tuple[Callable, int]]:
        model, tokens = self.language_model(d), self.torch.from_numpy(d["tokens"])

        def run() -> Any:
            with self.torch.inference_mode():
                for i in range(tokens.shape[1]):
                    logits = model.step(tokens[:, i])
            return logits

        return {"torch": (run, tokens.shape[1])}

    def prefill(self, d: Data) -> Callable:
        model, tokens = self.language_model(d), self.torch.from_numpy(d["tokens"])

        def run() -> np.ndarray:
            with self.torch.inference_mode():
                return model.prefill(tokens).numpy()

        return run


class TorchModel:
    """The model of refgss.reference.language_model in PyTorch: paper layers, tied, float32.

    Weights lie as in nn.Linear; all that follows from the parameters alone is computed once.
    """

    def __init__(self, torch: Any, params: Mapping[str, np.ndarray], eps: float, batch: int):
        self.torch, self.F, self.eps = torch, torch.nn.functional, eps
        tensors = {k: torch.from_numpy(v) for k, v in params.items()}
        self.embedding = tensors["embedding.weight"]
        self.norm = tensors["norm.weight"], tensors["norm.bias"]
        self.layers, depth = [], 1 + max(int(k.split(".")[1]) for k in params if k[0] == "l")
        for i in range(depth):
            p = {k[len(f"layers.{i}.") :]: v for k, v in tensors.items() if f"layers.{i}." in k}
            p = {k: v.T.contiguous() if k.startswith("w_") else v for k, v in p.items()}
            p["lam"] = torch.complex(-torch.exp(p["ssm.a"]), torch.exp(p["ssm.b"]))
            p["abar"] = torch.exp(p["lam"])
            p["weight"] = p["ssm.c"] * ((p["abar"] - 1) / p["lam"])
            self.layers.append(p)
        self.states = [
            torch.zeros(batch, *p["ssm.c"].shape, dtype=torch.cfloat) for p in self.layers
        ]
        self.length = 0

    def layer(self, p: dict[str, Any], x: Any, ssm: Callable) -> Any:
        F = self.F
        h = F.layer_norm(x, x.shape[-1:], p["norm.weight"], p["norm.bias"], self.eps)
        v, u = F.gelu(F.linear(h, p["w_v"])), F.gelu(F.linear(h, p["w_u"]))
        y = ssm(u) + p["ssm.d"] * u
        return F.linear(F.linear(y, p["w_uc"]) * v, p["w_o"]) + x

    def head(self, x: Any) -> Any:
        x = self.F.layer_norm(x, x.shape[-1:], *self.norm, self.eps)
        return self.F.linear(x, self.embedding)

    def step(self, tokens: Any) -> Any:
        """(B,) -> (B,V)."""
        x = self.embedding[tokens]
        for i in range(len(self.layers)):
            x = self.step_layer(i, x)
        return self.head(x)

    def step_layer(self, i: int, x: Any) -> Any:
        """(B,E) -> (B,E), and the state is that after the token."""
        p, state = self.layers[i], self.states[i]

        def recurrence(u: Any) -> Any:
            state.mul_(p["abar"]).add_(u[..., None])
            return self.torch.einsum("hn,bhn->bh", p["weight"], state).real

        return self.layer(p, x, recurrence)

    def prepare(self, length: int) -> None:
        """The spectrum of the kernel, and Λ's powers for the final state."""
        torch = self.torch
        self.length = length
        for p in self.layers:
            powers = torch.exp(p["lam"][:, None] * torch.arange(length))
            k = p["weight"].real @ powers.real - p["weight"].imag @ powers.imag
            p["spectrum"] = torch.fft.rfft(k, 2 * length)
            back = powers.flip(1).T  # (L,N)
            p["back"] = torch.cat([back.real, back.imag], 1).contiguous()

    def prefill(self, tokens: Any) -> Any:
        """(B,L), from the beginning -> logits of the last (B,V)."""
        torch, L = self.torch, tokens.shape[1]
        if self.length != L:
            self.prepare(L)
        x = self.embedding[tokens]
        for i, p in enumerate(self.layers):

            def scan(u: Any, p: Any = p, i: int = i) -> Any:
                u = u.transpose(1, 2)  # (B,H,L)
                re, im = (u @ p["back"]).chunk(2, -1)
                self.states[i] = torch.complex(re, im)
                spectrum = torch.fft.rfft(u, 2 * L) * p["spectrum"]
                return torch.fft.irfft(spectrum, 2 * L)[..., :L].transpose(1, 2)

            x = self.layer(p, x, scan)
        return self.head(x[:, -1])


class Jax:
    def start(self, threads: int) -> str:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        self.jax: Any = jax
        self.np: Any = jax.numpy
        return f"JAX {jax.__version__}"

    def compiled(self, function: Callable, *arguments: Any) -> Callable:
        arrays = self.jax.tree.map(self.np.asarray, arguments)
        fast = self.jax.jit(function)
        return lambda: self.jax.block_until_ready(fast(*arrays))

    def convolve(self, u: Any, kf: Any) -> Any:
        """u (B,L,H); XLA's FFT works on the last axis."""
        L = u.shape[1]
        u = u.swapaxes(1, 2)
        y = self.np.fft.irfft(self.np.fft.rfft(u, 2 * L) * kf, 2 * L)[..., :L]
        return y.swapaxes(1, 2)

    def conv(self, d: Data) -> Callable:
        def run(u: Any, k: Any) -> Any:
            return self.convolve(u, self.np.fft.rfft(k, 2 * u.shape[1]))

        return self.compiled(run, d["u"], d["k"])

    def conv_cached(self, d: Data) -> Callable:
        kf = self.np.fft.rfft(d["k"], 2 * d["u"].shape[1])
        return self.compiled(self.convolve, d["u"], kf)

    def weights_and_powers(self, lam: Any, c: Any, length: int) -> tuple[Any, Any]:
        w = c * ((self.np.exp(lam) - 1) / lam)
        return w, self.np.exp(lam[:, None] * self.np.arange(length))

    def kernel_of(self, lam: Any, c: Any, length: int) -> Any:
        w, p = self.weights_and_powers(lam, c, length)
        return w.real @ p.real - w.imag @ p.imag

    def kernel(self, d: Data) -> Callable:
        return self.compiled(lambda lam, c: self.kernel_of(lam, c, d["L"]), d["lam"], d["c"])

    def scan(self, d: Data) -> Callable:
        jnp, L = self.np, d["u"].shape[1]

        def run(lam: Any, c: Any, u: Any, x: Any) -> Any:
            w, p = self.weights_and_powers(lam, c, L + 1)
            k = w.real @ p[:, :L].real - w.imag @ p[:, :L].imag
            y = self.convolve(u, jnp.fft.rfft(k, 2 * L))
            y = y + jnp.einsum("bhn,nl->blh", x * w, p[:, 1:]).real
            back = p[:, :L][:, ::-1]
            re = jnp.einsum("blh,nl->bhn", u, back.real)
            return y, re + 1j * jnp.einsum("blh,nl->bhn", u, back.imag) + p[:, L] * x

        fast = self.compiled(run, d["lam"], d["c"], d["u"], d["state"])
        return lambda: fast()[0]

    def step(self, d: Data) -> Callable:
        jnp = self.np
        w, p = self.weights_and_powers(jnp.asarray(d["lam"]), d["c"], 2)

        def run(abar: Any, w: Any, u: Any, x: Any) -> Any:
            x = abar * x + u[..., None]
            return (w.real * x.real - w.imag * x.imag).sum(-1)[:, None], x

        fast = self.compiled(run, p[:, 1], w, d["u"][:, 0], d["state"])
        return lambda: fast()[0]

    def layer(self, d: Data) -> Callable:
        jnp, L = self.np, d["x"].shape[1]
        q = d["params"]
        lam = jnp.asarray(-np.exp(q["ssm.a"]) + 1j * np.exp(q["ssm.b"]))
        kf = jnp.fft.rfft(self.kernel_of(lam, jnp.asarray(q["ssm.c"]), L), 2 * L)

        def run(p: Any, kf: Any, x: Any) -> Any:
            d = x - x.mean(-1, keepdims=True)
            h = d / jnp.sqrt((d * d).mean(-1, keepdims=True) + 1e-5)
            h = h * p["norm.weight"] + p["norm.bias"]
            gelu = self.jax.nn.gelu
            v, u = gelu(h @ p["w_v"], approximate=False), gelu(h @ p["w_u"], approximate=False)
            y = self.convolve(u, kf) + p["ssm.d"] * u
            return (y @ p["w_uc"] * v) @ p["w_o"] + x

        return self.compiled(run, q, kf, d["x"])

    def train(self, d: Data) -> Callable:
        jnp, L = self.np, d["u"].shape[1]

        def forward(lam: Any, c: Any, u: Any) -> Any:
            return self.convolve(u, jnp.fft.rfft(self.kernel_of(lam, c, L), 2 * L))

        def run(lam: Any, c: Any, u: Any, dy: Any) -> Any:
            y, back = self.jax.vjp(forward, lam, c, u)
            return y, back(dy)

        fast = self.compiled(run, d["lam"], d["c"], d["u"], d["dy"])
        return lambda: fast()[0]

    def attend(self, q: Any, k: Any, v: Any) -> Any:
        return self.jax.nn.dot_product_attention(q, k, v, is_causal=True)

    def attention(self, d: Data) -> Callable:
        return self.compiled(self.attend, d["q"], d["k"], d["v"])

    def attention_train(self, d: Data) -> Callable:
        def run(q: Any, k: Any, v: Any, dy: Any) -> Any:
            y, back = self.jax.vjp(self.attend, q, k, v)
            return y, back(dy)

        fast = self.compiled(run, *(d[name] for name in ("q", "k", "v", "dy")))
        return lambda: fast()[0]

    def recurrent(self, config: Any) -> Callable:
        """As PyTorch's: windows as a batch, the states one after another."""
        jnp, jax, W, H = self.np, self.jax, config.window, config.heads
        bucket, seen = of_window(W)

        def norm(x: Any, weight: Any) -> Any:
            return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + config.eps) * weight

        def heads(x: Any, w: Any, unit: bool = True) -> Any:
            y = (x @ w).reshape(*x.shape[:-1], H, -1)
            return y * jax.lax.rsqrt((y * y).sum(-1, keepdims=True) + 1e-6) if unit else y

        def attend(q: Any, k: Any, v: Any, scale: Any, bias: Any = 0.0, seen: Any = True) -> Any:
            a = (jnp.einsum("...thd,...shd->...hts", q, k) + bias) * jnp.abs(scale)[:, None, None]
            w = jax.nn.softmax(jnp.where(seen, a, -jnp.inf))
            y = jnp.einsum("...hts,...shd->...thd", w, v)
            return y.reshape(*y.shape[:-2], -1)

        def forward(p: Any, x: Any) -> Any:
            h = norm(x[0].reshape(-1, W, x.shape[2]), p["norm1.weight"])
            k, v = heads(h, p["w_k"]), heads(h, p["w_v"], False)
            keys, values = (
                jnp.concatenate([jnp.concatenate([0 * t[:1], t[:-1]]), t], 1) for t in (k, v)
            )
            bias = p["position.table"][:, bucket]
            y = attend(heads(h, p["w_q"]), keys, values, p["scale"], bias, seen)

            def window(s: Any, of: Any) -> Any:
                q2, keys, values = of
                hs = norm(s, p["state.norm1.weight"]) + p["state.ids"]
                k, v = heads(hs, p["state.w_k"]), heads(hs, p["state.w_v"], False)
                own = attend(heads(hs, p["state.w_q"]), k, v, p["state.scale"])
                to = attend(heads(hs, p["state.w_q2"]), keys, values, p["state.scale2"])
                gate = jax.nn.sigmoid(p["state.gate1.b_f"])
                z = jnp.concatenate([own, to], -1) @ p["state.w_o"]
                return s * gate + z * (1 - gate), attend(q2, k, v, p["scale2"])

            of = heads(h, p["w_q2"]), keys, values
            _, to_state = jax.lax.scan(window, p["state.initial"], of)
            a = jnp.concatenate([y, to_state], -1).reshape(x.shape[1], -1)
            x1 = x[0] + a @ p["w_o"]
            m = jax.nn.relu(norm(x1, p["norm2.weight"]) @ p["w_1"])
            return (x1 + m @ p["w_2"])[None]

        return forward

    def block_recurrent(self, d: Data) -> Callable:
        return self.compiled(self.recurrent(d["config"]), d["params"], d["x"])

    def block_recurrent_train(self, d: Data) -> Callable:
        forward = self.recurrent(d["config"])

        def run(p: Any, x: Any, dy: Any) -> Any:
            y, back = self.jax.vjp(forward, p, x)
            return y, back(dy)

        fast = self.compiled(run, d["params"], d["x"], d["dy"])
        return lambda: fast()[0]


class SciPy:
    def start(self, threads: int) -> str:
        import scipy

        self.threads = threads
        return f"SciPy {scipy.__version__}"

    def convolution(self, d: Data, cached: bool) -> Callable:
        from scipy import fft

        u, L = np.ascontiguousarray(d["u"].swapaxes(1, 2)), d["u"].shape[1]
        n = fft.next_fast_len(2 * L, real=True)
        kf = fft.rfft(d["k"], n, workers=self.threads)

        def run() -> np.ndarray:
            spectrum = kf if cached else fft.rfft(d["k"], n, workers=self.threads)
            y = fft.irfft(fft.rfft(u, n, workers=self.threads) * spectrum, n, workers=self.threads)
            return y[..., :L].swapaxes(1, 2)

        return run

    def conv(self, d: Data) -> Callable:
        return self.convolution(d, False)

    def conv_cached(self, d: Data) -> Callable:
        return self.convolution(d, True)


class NumPy:
    def start(self, threads: int) -> str:
        return f"NumPy {np.__version__}"

    def kernel(self, d: Data) -> Callable:
        lam, c = d["lam"], d["c"]

        def run() -> np.ndarray:
            w = c * ((np.exp(lam) - 1) / lam)
            p = np.exp(lam[:, None] * np.arange(d["L"], dtype=np.float32))
            return w.real @ p.real - w.imag @ p.imag

        return run

    def step(self, d: Data) -> Callable:
        lam, u, x = d["lam"], d["u"][:, 0], d["state"]
        abar, w = np.exp(lam), d["c"] * ((np.exp(lam) - 1) / lam)

        def run() -> np.ndarray:
            x1 = abar * x + u[..., None]
            return np.einsum("hn,bhn->bh", w, x1).real[:, None]

        return run


RIVALS: dict[str, Any] = {"torch": Torch, "jax": Jax, "scipy": SciPy, "numpy": NumPy}
