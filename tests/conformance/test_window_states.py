"""States of several parts in the kit: integers, pieces, fresh cases, and what a NaN reaches."""

import numpy as np
import pytest

from refgss import reference
from refgss.config import AttentionForm
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging.compare import Failure, Outcome, Outputs, judge
from refgss.conformance.judging.procedures import execute
from refgss.conformance.judging.runner import Question, answer_to, ask
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import read_vectors
from refgss.conformance.vectors.visible import sees, shown
from refgss.reference.attention import in_slots, visible
from refgss.standard import spec_folder

VECTORS = {v.id: v for v in read_vectors(spec_folder() / "vectors").vectors}
VISIBLE = ("chunk", "sliding", "look1", "strict")


def outcome(v, **changes):
    """That of the reference's answer with some outputs in place of its own; None leaves one out."""
    arrays = {**answer_to(ModuleCandidate(reference), v, "f32").arrays, **changes}
    return judge(v, Outputs({k: x for k, x in arrays.items() if x is not None}), "f32")


@pytest.mark.parametrize(
    ("t", "wanted"),
    [
        (np.array([0], np.int64), Outcome.PASS),
        (np.array([0], np.uint8), Outcome.PASS),
        (np.array([1], np.int32), Outcome.WRONG_VALUE),
        (np.array([0], np.float32), Outcome.WRONG_DTYPE),
        (np.array([0, 0], np.int32), Outcome.WRONG_SHAPE),
        (None, Outcome.WRONG_SHAPE),
    ],
)
def test_tokens_are_counted_in_integers(t, wanted):
    v = VECTORS["attention/chunk-split-1"]
    assert v.expected["state.t"].hi.tolist() == [0]
    assert outcome(v, **{"state.t": t}).outcome is wanted


def test_a_part_that_a_state_does_not_have_is_not_due():
    v = VECTORS["attention/chunk-plain"]
    assert outcome(v, **{"state.z": np.zeros(1, np.float32)}).outcome is Outcome.WRONG_SHAPE


def test_q_k_and_v_are_cut_together_and_all_parts_of_the_state_are_handed_on():
    asked = []

    def run(op, tensors, options):
        asked.append({k: x.shape for k, x in tensors.items()})
        state = {f"state.{part}": np.zeros(len(asked)) for part in "kvt"}
        return Outputs({"y": tensors["q"]} | state)

    tensors = {n: np.zeros((1, 5, 2, 2)) for n in "qkv"} | {"state.t": np.zeros(9)}
    answer = execute(run, "attention", tensors, {"window": {}, "splits": [2]})
    assert answer.arrays["y"].shape == (1, 5, 2, 2)
    assert [c["k"] for c in asked] == [(1, 2, 2, 2), (1, 3, 2, 2)]
    assert [c.get("state.v") for c in asked] == [None, (1,)]
    stateless = execute(
        lambda *_: Outputs({"y": tensors["q"]}), "attention", tensors, {"splits": [2]}
    )
    assert isinstance(stateless, Failure)


@pytest.mark.parametrize("kind", VISIBLE)
def test_what_is_seen_is_what_the_reference_sees(kind):
    for chunk in (1, 2, 3):
        form = AttentionForm(chunk, kind)
        t, s = np.arange(9)[:, None], np.arange(9)
        wanted = [[sees(int(i), int(j), form) for j in s] for i in t[:, 0]]
        assert visible(t, s, form).tolist() == wanted
        for n in range(9):
            held = in_slots(np.array([[n]]), form.slots)
            assert visible(np.array([[n]]), held, form)[0].tolist() == shown(n, form)


def test_fresh_cases_keep_what_stands_in_the_slots():
    template = VECTORS["attention/look1-hidden"]
    case = fresh.like(template, [template], np.random.default_rng(1), 1)
    assert np.array_equal(case.tensors["state.t"], template.tensors["state.t"])
    assert not np.array_equal(case.tensors["q"], template.tensors["q"])


@pytest.mark.parametrize("kind", VISIBLE)
@pytest.mark.parametrize(("mask", "name"), [("masked_by_zero", "v"), ("masked_by_addition", "k")])
def test_a_mask_that_lets_a_nan_through_is_rejected(mask, name, kind):
    candidate = ModuleCandidate(mutants.load(mutants.declared()[mask]))
    with np.errstate(all="ignore"):
        question = Question(VECTORS[f"attention/{kind}-nan-{name}"], "f64")
        assert ask(candidate, question)["outcome"] == "non-finite"
