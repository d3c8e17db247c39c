"""Fits of exponents and coefficients: what they are given comes back, with intervals that hold it."""

import numpy as np
import pytest

from support.orders import fit_order, fit_powers


def test_fits_recover_what_they_are_given():
    lrs = np.array([0.5, 0.25, 0.125, 0.0625])
    exact = fit_powers(lrs, 3 * lrs**2 + 5 * lrs**3)
    np.testing.assert_allclose(exact.value, [3, 5])
    assert (exact.low == exact.value).all() and (exact.high == exact.value).all()
    groups = 2 * lrs**1.5 * np.exp(np.random.default_rng(0).normal(0, 0.05, (30, 4)))
    order = fit_order(lrs, groups, confidence=0.99)
    assert order.low < 1.5 < order.high and order.high - order.low < 0.2 and order.confidence == 0.99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_order([0.1, 0.2], [1.0, 2.0, 3.0]), "one number a learning rate"),
        (lambda: fit_powers([0.1], [1.0]), "do not determine 2"),
        (lambda: fit_order([0.1, 0.2], [0.0, 1.0]), "above 0"),
        (lambda: fit_order([0.1, 0.2], [2.0, 1.0], confidence=95), "confidence = 95 is no probability"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
