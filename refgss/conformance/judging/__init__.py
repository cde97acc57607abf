"""Judging: an answer beside a vector, a run, a diagnosis, a shrunk counterexample."""
