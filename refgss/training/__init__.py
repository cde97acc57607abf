"""Training of language models with JAX and optax: data, optimisers, step, state file, loop."""
