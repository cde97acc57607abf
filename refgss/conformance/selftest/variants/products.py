"""Variants of the dense map: other orders of summation, and operands split in narrow parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refgss import checks
from refgss.conformance.selftest.variants.declare import Rejection, instead_of

Array = np.ndarray
Product = Callable[[Array, Array], Array]  # (M,K), (K,N) -> (M,N)


@instead_of("pointwise.dense")
def dense_by_einsum(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """The product by einsum, without a BLAS."""
    return checked_dense(x, weight, bias, lambda a, w: np.einsum("...i,io->...o", a, w))


@instead_of("pointwise.dense")
def dense_in_blocks(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Blocks of 3 rows of the weight, summed from the last to the first."""

    def product(a: Array, w: Array) -> Array:
        starts = reversed(range(0, len(w), 3))
        return sum((a[..., i : i + 3] @ w[i : i + 3] for i in starts), np.zeros((), a.dtype))

    return checked_dense(x, weight, bias, product)


@instead_of("pointwise.dense")
def dense_from_bias(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """A chain of additions that begins with the bias."""

    def product(a: Array, w: Array) -> Array:
        y = np.zeros((*a.shape[:-1], w.shape[1]), a.dtype) + (0 if bias is None else bias)
        for i in range(len(w)):
            y = y + a[..., i : i + 1] * w[i]
        return y

    return checked_dense(x, weight, bias, product, add=False)


def checked_dense(x: Array, weight: Array, bias: Any, product: Any, add: bool = True) -> Array:
    checks.check_dense("dense", x, weight, bias)
    y = product(x, weight)
    return y + bias if add and bias is not None else y


# --- a product of matrices in the map and in its gradient ----------------------------------------


def with_product(product: Product) -> Callable[[str], Any]:
    """By the name of the op, the op that multiplies so."""

    def dense(x: Array, weight: Array, bias: Array | None = None) -> Array:
        checks.check_dense("dense", x, weight, bias)
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        y = product(rows, weight).reshape(*x.shape[:-1], weight.shape[1])
        return y if bias is None else y + bias

    def dense_vjp(x: Array, weight: Array, bias: Any, dy: Array) -> tuple[Any, ...]:
        checks.check_dense("dense_vjp", x, weight, bias)
        shape = (*x.shape[:-1], weight.shape[1])
        checks.check_shape("dense_vjp", "dy", dy, shape, "f")
        rows = math.prod(x.shape[:-1])
        xs, dys = x.reshape(rows, x.shape[-1]), dy.reshape(rows, dy.shape[-1])
        dx = product(dys, weight.T).reshape(x.shape)
        return dx, product(xs.T, dys), None if bias is None else dys.sum(0)

    return {"dense": dense, "dense_vjp": dense_vjp}.__getitem__


BOTH = ("pointwise.dense", "pointwise.dense_vjp")
MULTIPLYING = tuple(  # the ops that have a product of matrices in them
    f"{op}{end}"
    for op in (
        *("dense", "gss_layer", "dss_layer", "transformer_layer"),
        *("block_recurrent_layer", "block_recurrent_step", "lm_logits", "lm_loss"),
    )
    for end in ("", "_vjp")
)


@instead_of(*BOTH)
def terms_in_pairs(op: str) -> Any:
    """Sums of products as balanced trees."""

    def tree(a: Array, b: Array) -> Array:
        n = a.shape[1]
        if n < 2:
            return a @ b
        return tree(a[:, : n // 2], b[: n // 2]) + tree(a[:, n // 2 :], b[n // 2 :])

    return with_product(tree)(op)


@instead_of(*BOTH)
def terms_compensated(op: str) -> Any:
    """Sums of products by Kahan's compensation."""

    def product(a: Array, b: Array) -> Array:
        y, low = np.zeros((len(a), b.shape[1]), a.dtype), np.zeros((), a.dtype)
        for i in range(len(b)):
            term = a[:, i : i + 1] * b[i] - low
            total = y + term
            y, low = total, (total - y) - term
        return y if np.all(np.isfinite(y)) else a @ b

    return with_product(product)(op)


@instead_of(*BOTH, precisions=("f32",))
def terms_fused(op: str) -> Any:
    """A chain of fused multiply-adds: each product exact, each sum rounded once."""

    def product(a: Array, b: Array) -> Array:
        y, wide = np.zeros((len(a), b.shape[1]), a.dtype), b.astype(np.float64)
        for i in range(len(b)):
            y = (y + a[:, i : i + 1].astype(np.float64) * wide[i]).astype(a.dtype)
        return y

    return with_product(product)(op)


@instead_of(*BOTH, precisions=("f32",))
def products_in_binary64(op: str) -> Any:
    """Products and sums in binary64, rounded at the end."""
    return with_product(lambda a, b: (a.astype(np.float64) @ b).astype(a.dtype))(op)


@instead_of(*BOTH)
def rows_backwards(op: str) -> Any:
    """A chain of additions, last term first."""

    def product(a: Array, b: Array) -> Array:
        y = np.zeros((len(a), b.shape[1]), a.dtype)
        for i in reversed(range(len(b))):
            y = y + a[:, i : i + 1] * b[i]
        return y

    return with_product(product)(op)


def bfloat16(x: Array) -> Array:
    """Rounded to nearest, ties to even, to the 8 bits of bfloat16."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def three_parts(x: Array) -> list[Array]:
    """Three numbers of bfloat16 whose sum is x."""
    high = bfloat16(x)
    middle = bfloat16(x - high)
    return [high, middle, bfloat16(x - high - middle)]


def splittable(x: Array) -> bool:
    """Whether the low parts of all numbers are normal, and the high ones finite."""
    size = np.abs(x[x != 0])
    return not size.size or bool(size.min() > 2.0**-90 and size.max() < 2.0**60)


def split(pairs: Sequence[tuple[int, int]]) -> Product:
    """The product of matrices from these pairs of parts, the first pairs added up first."""

    def product(a: Array, b: Array) -> Array:
        if not (splittable(a) and splittable(b)):
            return a @ b
        left, right = three_parts(a), three_parts(b)
        y = np.zeros((len(a), b.shape[1]), a.dtype)
        for i, j in pairs:
            y = y + left[i] @ right[j]
        return y

    return product


SMALL_FIRST = ((1, 2), (2, 1), (0, 2), (2, 0), (1, 1), (0, 1), (1, 0), (0, 0))


@instead_of(*BOTH, precisions=("f32",))
def eight_parts_of_bfloat16(op: str) -> Any:
    """Operands as three numbers of bfloat16 and eight of their products, small ones first."""
    return with_product(split(SMALL_FIRST))(op)


@instead_of(
    *BOTH,
    precisions=("f32",),
    rejections=(
        Rejection(
            "GSS-ACC-6",
            ("dense_vjp", "dense"),
            "what six of nine products leave out is more than half an ulp of a single product",
        ),
    ),
)
def six_parts_of_bfloat16(op: str) -> Any:
    """Operands as three numbers of bfloat16 and six of their products (BF16x6)."""
    return with_product(split(SMALL_FIRST[2:]))(op)


@instead_of(
    *BOTH,
    precisions=("f32",),
    rejections=(
        Rejection(
            "GSS-ACC-6",
            MULTIPLYING,
            "two parts of bfloat16 have 16 bits, not 24",
        ),
    ),
)
def three_parts_of_bfloat16(op: str) -> Any:
    """Operands as two numbers of bfloat16 and three of their products (BF16x3)."""
    return with_product(split(((0, 1), (1, 0), (0, 0))))(op)


@instead_of(
    *BOTH,
    rejections=(
        Rejection(
            "GSS-ACC-1",
            MULTIPLYING,
            "Strassen's errors are those of the norms, not of each element's own terms",
        ),
    ),
)
def strassen(op: str) -> Any:
    """One level of Strassen's seven products."""

    def product(a: Array, b: Array) -> Array:
        (m, n), p = a.shape, b.shape[1]
        if min(m, n, p) < 2 or not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
            return a @ b
        a = np.pad(a, ((0, m % 2), (0, n % 2)))
        b = np.pad(b, ((0, n % 2), (0, p % 2)))
        (a11, a12), (a21, a22) = (np.hsplit(x, 2) for x in np.vsplit(a, 2))
        (b11, b12), (b21, b22) = (np.hsplit(x, 2) for x in np.vsplit(b, 2))
        m1, m2 = (a11 + a22) @ (b11 + b22), (a21 + a22) @ b11
        m3, m4 = a11 @ (b12 - b22), a22 @ (b21 - b11)
        m5, m6, m7 = (a11 + a12) @ b22, (a21 - a11) @ (b11 + b12), (a12 - a22) @ (b21 + b22)
        y = np.block([[m1 + m4 - m5 + m7, m3 + m5], [m2 + m4, m1 - m2 + m3 + m6]])
        return y[:m, :p]

    return with_product(product)(op)
