"""What each function of the reference moves: as published, and as measured again."""

import pytest

from refgss.conformance.judging import slices
from refgss.conformance.judging.likeness import published_vectors
from refgss.conformance.selftest import kills, slicing
from refgss.conformance.vectors.format import moderate, read_vectors
from refgss.standard import spec_folder

VECTORS = moderate(read_vectors(spec_folder() / "vectors").vectors)
FEW = [v for v in VECTORS if v.id in published_vectors()][::40]
MOVES = slices.published_moves(VECTORS)
SPECTRA = slices.published_slices(VECTORS)


def moved_in(function, op):
    return {output for id, output in MOVES[function] if id.startswith(f"{op}/")}


@pytest.mark.parametrize(
    ("function", "op", "outputs"),
    [
        ("pointwise.gelu", "gelu", {"y"}),
        ("pointwise.gelu", "dense", set()),
        ("discretization.input_weight", "discretize", {"bbar"}),
        ("kernel.read_out", "ssm_scan", {"y"}),
        ("kernel.modes_vjp", "ssm_kernel_vjp", {"dlam", "dc", "ddelta"}),
        ("initialization.s4d_lambda", "s4d_lambda", {"lam"}),
    ],
)
def test_a_function_moves_what_is_made_of_it(function, op, outputs):
    assert moved_in(function, op) == outputs


@pytest.mark.parametrize(
    "function", ["pointwise.normalize", "discretization.transition", "kernel.mode_weight"]
)
def test_what_is_measured_again_is_what_is_published(function):
    ran = set().union(*slicing.executed(FEW, kills.paths())[function])
    few = [v for v in FEW if v.id in ran and not v.error]
    assert few
    found = slicing.moved(function, few, {v.id: slicing.truth(v) for v in few})
    assert found == {(id, output) for id, output in MOVES[function] if id in ran}


@pytest.mark.parametrize("function", ["pointwise.gelu", "recurrence.ssm_scan"])
def test_wrong_results_that_are_all_that_a_function_moves_are_likest_to_it(function):
    everything = SPECTRA.bits(SPECTRA.place)
    wrong = SPECTRA.bits(MOVES[function])
    found = SPECTRA.likeness(wrong, everything)
    assert found[function] == max(found.values()) > 0.9


def test_every_statement_of_the_reference_that_vectors_run_has_a_slice():
    assert SPECTRA.moved.keys() >= MOVES.keys()
    assert len({s for sets in SPECTRA.moved.values() for s in sets}) > 150


def test_other_vectors_have_no_slices():
    assert slices.published_slices(VECTORS[:3]).likeness(1, 1) == {}


def test_the_likeness_is_one_where_the_sets_are_equal_and_none_where_they_are_apart():
    assert slices.ochiai(0b1100, 0b1100) == 1
    assert slices.ochiai(0b1100, 0b0011) == 0
    assert slices.ochiai(0b1100, 0b0100) == pytest.approx(0.5**0.5)
