"""The conformance kit: clauses, vectors, budgets, candidates, diagnosis and reports."""

from __future__ import annotations

PROTOCOL = 1  # of the messages between `refgss check` and a candidate (GSS-CNF)
PRECISIONS = ("f32", "f64")
LAYER_PROFILES = ("paper", "gss-pytorch")
SCORES = "scores"  # the profile of score ops, which are asked in binary64
PROFILES = (*PRECISIONS, *LAYER_PROFILES, SCORES)
