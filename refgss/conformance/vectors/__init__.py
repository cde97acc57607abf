"""Vectors: cases, the proofs of their expected values, their budgets and their files."""
