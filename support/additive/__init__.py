"""Additive noises of a chosen covariance: what they match, and how they are drawn."""
