"""Deliberate faults of the package, and what the verdicts make of them: a verdict that none changes is no verdict."""
