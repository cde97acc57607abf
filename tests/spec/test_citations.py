"""A backend's function of an op cites clauses that the reference's function of that op cites."""

import pytest

pytest.importorskip("jax")

from refgss import native, reference, xla
from refgss.conformance.clauses import cited

# what a function promises beyond the op's own formula, wherever it is kept
OF_EVERY_OP = ("GSS-ARR-", "GSS-ACC-", "GSS-NFI-", "GSS-STA-")


@pytest.mark.parametrize(
    ("backend", "op"), [(backend, op) for backend in (native, xla) for op in backend.OPS]
)
def test_a_backend_cites_what_the_reference_cites(backend, op):
    theirs, ours = (cited(getattr(m, op).__doc__ or "") for m in (backend, reference))
    own = [c for c in theirs if not c.startswith(OF_EVERY_OP)]
    assert set(own) <= set(ours), f"{backend.__name__}.{op} cites {set(own) - set(ours)}"
    assert own or not ours, f"{backend.__name__}.{op} cites none of {ours}"
