"""The conformance kit: clauses, vectors, budgets, candidates, diagnosis and reports."""
