"""Experiments where the answer is not known: data, models, training, presets, records."""
