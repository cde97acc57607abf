"""Candidates: how an implementation in any language is started, asked and read."""
