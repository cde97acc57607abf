"""Attention and its positions, beside PyTorch, JAX, and numbers computed elsewhere.

The witness computes one row at a time over its whole history, with a mask made of loops, and no
state: what the reference reads from slots the witness reads from the history itself.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from refgss import reference
from refgss.config import AttentionForm
from refgss.reference.attention import buckets

NUMBERS = json.loads(Path(__file__).with_name("attention_numbers.json").read_text())
GIVEN = {name: np.array(NUMBERS[name])[None] for name in "qkv"}  # (1,11,2,4)
C = NUMBERS["chunk"]
SEES = {
    "chunk": lambda t, s, C: s <= t and t // C == s // C,
    "sliding": lambda t, s, C: s <= t and t - s < C,
    "look1": lambda t, s, C: s <= t and t // C - s // C in (0, 1),
    "strict": lambda t, s, C: s < t and t - s <= C,
}
FORMS = [AttentionForm(chunk, visible) for visible in SEES for chunk in (1, 4, 20)]
HISTORIES = (0, 1, 3, 4, 6, 9)  # tokens that each row of a batch has read: phases that differ
NEW, HEADS, GROUPS, D = 7, 4, 2, 6


def form_name(form):
    return f"{form.visible}-{form.chunk}"


def positioned(position):
    """q, k and bias of the numbers, under a position of the layer."""
    q, k, r = GIVEN["q"], GIVEN["k"], np.arange(11)[None] % C
    if position.startswith("rope"):
        how = {"base": 10000.0, "pairing": position.removeprefix("rope-")}
        return reference.rope(q, r, **how), reference.rope(k, r, **how), None
    if position == "t5":
        return q, k, reference.t5_bias(np.array(NUMBERS["table"]), C)
    alibi = -np.array([[2.0**-4], [2.0**-8]]) * np.arange(C)
    return q, k, alibi if position == "alibi" else None


@pytest.mark.parametrize("name", NUMBERS["y"])
def test_numbers_that_were_computed_elsewhere(name):
    form = AttentionForm(C, name if name in SEES else "chunk")
    q, k, bias = positioned("none" if name in SEES else name)
    y, _ = reference.attention(q, k, GIVEN["v"], bias, None, window=form)
    np.testing.assert_allclose(y[0], NUMBERS["y"][name], rtol=0, atol=1e-12)


# --- PyTorch and JAX ------------------------------------------------------------------------------


def test_pytorch_attends_to_each_chunk_alike():
    heads_first = {n: torch.tensor(x[0]).transpose(0, 1) for n, x in GIVEN.items()}
    of_chunks = zip(*(x.split(C, 1) for x in heads_first.values()), strict=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    theirs = torch.cat([attend(*parts, is_causal=True) for parts in of_chunks], 1)
    ours, _ = reference.attention(**GIVEN, bias=None, window=AttentionForm(C))
    np.testing.assert_allclose(ours[0], theirs.transpose(0, 1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_jax_attends_to_what_a_mask_leaves(form):
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, 11, n, 4)).astype("f4") for n in (HEADS, GROUPS, GROUPS))
    mask = np.array([[SEES[form.visible](t, s, form.chunk) for s in range(11)] for t in range(11)])
    theirs = jax.nn.dot_product_attention(q, k, v, mask=mask[None, None])
    ours, _ = reference.attention(q, k, v, None, window=form)
    some = mask.any(1)
    np.testing.assert_allclose(ours[:, some], theirs[:, some], rtol=0, atol=1e-6)
    assert not ours[:, ~some].any()


def drawn(form, seed=0):
    """A whole sequence for every row, a bias, and cotangents."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    rows = [
        {
            name: draw((n + NEW, of, D))
            for name, of in zip("qkv", (HEADS, GROUPS, GROUPS), strict=True)
        }
        for n in HISTORIES
    ]
    slots = (len(rows), form.slots, GROUPS, D)
    dstate = {"k": draw(slots), "v": draw(slots)}
    return rows, draw((HEADS, form.distances + 1)), draw((len(rows), NEW, HEADS, D)), dstate


def state_of(rows, form):
    """What the rows have read so far, each of another length."""
    read = [
        reference.attention(*(x[None, : len(x) - NEW] for x in row.values()), None, window=form)[1]
        for row in rows
    ]
    return {part: np.concatenate([s[part] for s in read]) for part in "kvt"}


def witness(row, bias, form):
    """y (n,Hq,D) of a row, and what each slot holds at its end, in PyTorch."""
    q, k, v = (row[name] for name in "qkv")
    n, shared = len(q), torch.arange(HEADS) // (HEADS // GROUPS)
    a = torch.einsum("thd,shd->hts", q, k[:, shared]) / math.sqrt(D)
    seen = torch.tensor(
        [[SEES[form.visible](t, s, form.chunk) for s in range(n)] for t in range(n)]
    )
    distance = (torch.arange(n)[:, None] - torch.arange(n)).clamp(0, bias.shape[1] - 1)
    a = (a + bias[:, distance]).masked_fill(~seen, -torch.inf)
    w = torch.where(seen.any(1)[:, None], a.softmax(-1), 0)
    slots = {name: torch.zeros(form.slots, GROUPS, D, dtype=q.dtype) for name in "kv"}
    for s in range(n):
        if SEES[form.visible](n, s, form.chunk):
            for name in "kv":
                slots[name] = slots[name].index_copy(
                    0, torch.tensor([s % form.slots]), row[name][s : s + 1]
                )
    return torch.einsum("hts,shd->thd", w, v[:, shared]), slots


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_values_states_and_gradients_are_those_of_the_whole_history(form):
    rows, bias, dy, dstate = drawn(form)
    state = state_of(rows, form)
    new = [np.stack([row[name][-NEW:] for row in rows]) for name in "qkv"]
    y, after = reference.attention(*new, bias, state, window=form)
    ours = reference.attention_vjp(*new, bias, state, dy, dstate, window=form)
    dbias = torch.tensor(bias, requires_grad=True)
    for b, row in enumerate(rows):
        theirs = {name: torch.tensor(x, requires_grad=True) for name, x in row.items()}
        out, slots = witness(theirs, dbias, form)
        np.testing.assert_allclose(y[b], out[-NEW:].detach(), rtol=0, atol=1e-13)
        for part in "kv":
            np.testing.assert_array_equal(after[part][b], slots[part].detach())
        loss = (out[-NEW:] * torch.tensor(dy[b])).sum()
        loss = loss + sum((slots[p] * torch.tensor(dstate[p][b])).sum() for p in "kv")
        loss.backward()
        for i, name in enumerate("qkv"):
            np.testing.assert_allclose(ours[i][b], theirs[name].grad[-NEW:], rtol=0, atol=1e-13)
        for part in "kv":
            expected = np.zeros(dstate[part][b].shape)
            history = HISTORIES[b]
            for s in range(history):
                if SEES[form.visible](history, s, form.chunk):
                    expected[s % form.slots] = theirs[part].grad[s]
            held = ours[4][part][b]
            np.testing.assert_allclose(held, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(ours[3], dbias.grad, rtol=0, atol=1e-12)
    end = [n + NEW for n in HISTORIES]
    wanted = [n % form.chunk for n in end] if form.visible == "chunk" else end
    assert after["t"].tolist() == wanted


# --- pieces, steps, NaN ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_every_cut_and_all_steps_give_the_whole(form):
    rows, bias, *_ = drawn(form, 3)
    state = state_of(rows, form)
    x = [np.stack([row[name][-NEW:] for row in rows]) for name in "qkv"]
    whole, end = reference.attention(*x, bias, state, window=form)
    outcomes = []
    for cut in range(NEW + 1):
        a, after = reference.attention(*(z[:, :cut] for z in x), bias, state, window=form)
        b, after = reference.attention(*(z[:, cut:] for z in x), bias, after, window=form)
        outcomes.append((np.concatenate([a, b], 1), after))
    after, steps = state, []
    for i in range(NEW):
        y, after = reference.attention_step(*(z[:, i] for z in x), bias, after, window=form)
        steps.append(y)
    outcomes.append((np.stack(steps, 1), after))
    for y, after in outcomes:
        np.testing.assert_allclose(y, whole, rtol=0, atol=1e-14)
        for part in "kvt":
            np.testing.assert_array_equal(after[part], end[part])


def test_the_gradients_of_a_step_are_those_of_one_token():
    form = AttentionForm(4, "look1")
    rows, bias, dy, dstate = drawn(form)
    state = state_of(rows, form)
    x = [np.stack([row[name][-1:] for row in rows]) for name in "qkv"]
    dy = dy[:, :1]
    *whole, dstate0 = reference.attention_vjp(*x, bias, state, dy, dstate, window=form)
    step = reference.attention_step_vjp(
        *(z[:, 0] for z in x), bias, state, dy[:, 0], dstate, window=form
    )
    for ours, theirs in zip(step[:3], whole[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs[:, 0])
    np.testing.assert_array_equal(step[3], whole[3])
    for part in "kv":
        np.testing.assert_array_equal(step[4][part], dstate0[part])


@pytest.mark.parametrize("form", FORMS, ids=form_name)
@pytest.mark.parametrize("name", "qkv")
def test_a_nan_reaches_whoever_sees_it_and_nobody_else(form, name):
    rng = np.random.default_rng(2)
    x = [rng.standard_normal((1, 11, n, D)) for n in (HEADS, GROUPS, GROUPS)]
    clean, _ = reference.attention(*x, None, window=form)
    x["qkv".index(name)][0, 5, 1] = np.nan
    y, _ = reference.attention(*x, None, window=form)
    dirty = np.zeros((11, HEADS), bool)
    for t in range(11):
        sees = SEES[form.visible](t, 5, form.chunk) if name != "q" else t == 5
        alone = name == "q" and not any(SEES[form.visible](t, s, form.chunk) for s in range(11))
        dirty[t] = sees and not alone
    dirty &= np.array([h == 1 if name == "q" else h // 2 == 1 for h in range(HEADS)])
    np.testing.assert_array_equal(np.isnan(y[0]).all(-1), dirty)
    np.testing.assert_array_equal(y[0][~dirty], clean[0][~dirty])


def test_gradients_do_not_cross_the_end_of_a_chunk():
    form = AttentionForm(4)
    rng = np.random.default_rng(5)
    q, k, v, dy = (rng.standard_normal((1, 12, 2, 3)) for _ in range(4))
    dy[:, :4] = dy[:, 8:] = 0  # only the second chunk is asked
    none = {part: np.zeros((1, 4, 2, 3)) for part in "kv"}
    for g in reference.attention_vjp(q, k, v, None, None, dy, none, window=form)[:3]:
        assert not g[:, :4].any() and not g[:, 8:].any() and g[:, 4:8].any()


def test_huge_and_equal_logits():
    form = AttentionForm(4)
    k, v = np.ones((1, 4, 1, 1), "f4"), np.arange(4, dtype="f4").reshape(1, 4, 1, 1)
    for size in (0, 1e4, -3e38):
        y, _ = reference.attention(size * k, k, v, None, window=form)
        np.testing.assert_allclose(y.ravel(), [0, 0.5, 1, 1.5], rtol=1e-6)


# --- positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rope_is_a_rotation_of_complex_numbers(pairing):
    rng = np.random.default_rng(7)
    x, dy = rng.standard_normal((2, 2, 5, 3, 8))
    r = rng.integers(0, 10**6, (2, 5))
    how = {"base": 500.0, "pairing": pairing}
    pairs = (lambda z: z[..., :4] + 1j * z[..., 4:]) if pairing == "half" else (
        lambda z: z[..., ::2] + 1j * z[..., 1::2]
    )  # fmt: skip
    turn = np.exp(1j * r[:, :, None, None] * 500.0 ** (-np.arange(4) / 4))
    y = reference.rope(x, r, **how)
    np.testing.assert_allclose(pairs(y), pairs(x) * turn, rtol=0, atol=1e-9)
    dx = reference.rope_vjp(r, dy, **how)
    np.testing.assert_allclose((dx * x).sum(), (dy * y).sum(), rtol=1e-12)
    np.testing.assert_allclose(reference.rope_vjp(r, y, **how), x, rtol=0, atol=1e-14)


def test_positions_are_relative():
    """t and t mod C give the same, under rope."""
    q, k = GIVEN["q"], GIVEN["k"]
    how = {"base": 10000.0, "pairing": "half"}
    outputs = []
    for r in (np.arange(11)[None], np.arange(11)[None] % C):
        turned = (reference.rope(x, r, **how) for x in (q, k))
        outputs.append(reference.attention(*turned, GIVEN["v"], None, window=AttentionForm(C))[0])
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-14)


def bucket_of_transformers(n):
    """T5Attention._relative_position_bucket, one direction, in binary32 as there."""
    n = torch.tensor(n)
    large = 16 + (torch.log(n.float() / 16) / math.log(128 / 16) * 16).to(torch.long)
    return torch.where(n < 16, n, torch.clamp(large, max=31))


def test_the_integer_table_of_t5_is_the_formula():
    n = np.arange(400)
    np.testing.assert_array_equal(buckets(400), bucket_of_transformers(n))
    exact = [i if i < 16 else min(31, 16 + math.floor(16 * math.log2(i / 16) / 3)) for i in n]
    assert buckets(400).tolist() == exact


def test_the_gradient_of_the_table_is_the_transpose():
    rng = np.random.default_rng(9)
    table, dbias = rng.standard_normal((3, 32)), rng.standard_normal((3, 150))
    dtable = reference.t5_bias_vjp(table, 150, dbias)
    bias = reference.t5_bias(table, 150)
    np.testing.assert_allclose((dtable * table).sum(), (dbias * bias).sum(), rtol=1e-12)
    assert not reference.t5_bias_vjp(table, 5, dbias[:, :5])[:, 5:].any()


def test_rms_norm_is_pytorchs():
    rng = np.random.default_rng(11)
    x, weight, dy = (
        rng.standard_normal((3, 5, 6)),
        rng.standard_normal(6),
        rng.standard_normal((3, 5, 6)),
    )
    x_, w_ = torch.tensor(x, requires_grad=True), torch.tensor(weight, requires_grad=True)
    theirs = torch.nn.functional.rms_norm(x_, (6,), w_, 0.1)
    theirs.backward(torch.tensor(dy))
    ours = reference.rms_norm(x, weight, eps=0.1)
    np.testing.assert_allclose(ours, theirs.detach(), rtol=0, atol=1e-13)
    for a, b in zip(
        reference.rms_norm_vjp(x, weight, dy, eps=0.1), (x_.grad, w_.grad), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
