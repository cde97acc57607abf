"""Measurements of models: what reads files, runs models and calls the ops of `refgss.scores`."""
