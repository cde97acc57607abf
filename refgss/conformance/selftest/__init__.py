"""The kit tested: mutants that must fail and honest variants that must pass."""
