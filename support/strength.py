r"""How strong the noise of SGD is for your own numbers: from curvatures or a data set, learning rate, batch, momentum,
noise and decay to the fluctuation, the losses, the tail, the edge of stability, and the simplest approximation that
would have served.

Least squares in the long run, exactly (`support.exact.stationary`): losses ``½(xᵀθ − y)²``, steps ``m ← μm + g̃ + γθ``,
``θ ← θ − ηm`` with the mean gradient g̃ of b samples. A network near a minimum is of this kind as far as its loss is
quadratic and its samples' gradients are those of a regression. Source: Ziyin et al. (2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from support.errors import Refused, array, boolean, choice, instance, integer, real
from support.exact.approximations import APPROXIMATIONS, Miss, bare_hessian, miss, printed_formula
from support.exact.batch_noise import fixed, matched
from support.exact.blurred import BlurredPopulation
from support.exact.matrices import symmetric
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.exact.second_moments import Descent
from support.exact.stationary import Stationary, decay_window, gain, headroom, input_noise, stationary
from support.exact.tail_range import fluctuates, tail_range
from support.sampling import MiniBatch

CLOSE = 0.1  # the relative error up to which an approximation serves
NAMES = tuple(one.name for one in APPROXIMATIONS)
# not the bare Hessian, whose Σ has the wrong units, nor the printed formula, which has its corrected one beside it
CANDIDATES = tuple(a for a in APPROXIMATIONS if a.evaluate not in (bare_hessian, printed_formula))


@dataclass(frozen=True, eq=False)
class Strength:
    """The noise of one setting; `strength` makes it. descent: the SGD that was solved; features: A = E xxᵀ of clean
    inputs, (d, d); optimum: the best parameters on clean data, (d,); b: batch size; replace: whether batches are drawn
    with replacement.

    >>> print(strength(1.5, lr=1.0, b=12, variance=0.25))
    fluctuation Tr Σ: 0.08333
    training loss: 0.1875
    loss over the optimum: 0.0625
    tail index β: 3.24, moments of order below it exist
    largest stable lr: 1.143, 1.14 times this one
    smallest stable batch: 7, gain 0.5
    stable weight decay: -1.291 to 0.2906
    simplest that serves: Gaussian, corrected: 0 % for the loss
    """

    descent: Descent
    features: np.ndarray
    optimum: np.ndarray
    b: int
    replace: bool = True

    @cached_property
    def found(self) -> Stationary:
        """The exact solution, of `support.exact.stationary`."""
        return stationary(self.descent)

    @property
    def covariance(self) -> np.ndarray:
        """Σ, the fluctuation of the parameters around their mean, (d, d); zero in directions that stand still."""
        return self.found.covariance

    @cached_property
    def by_direction(self) -> np.ndarray:
        """Curvature and fluctuation vᵀΣv of every eigenvector v of A, the sharpest first, (d, 2)."""
        values, axes = np.linalg.eigh(self.features)
        spread = np.maximum(np.einsum("ij,ik,kj->j", axes, self.covariance, axes), 0)
        return np.stack([values, spread], axis=1)[::-1]

    @property
    def still(self) -> int:
        """How many directions stand still: those without data, where there is no decay. There θ stays as it started."""
        return len(self.features) - len(self.descent.axes.T)

    @property
    def train(self) -> float:
        """Training loss in the long run, ``½ E (xᵀθ − y)²``, without the penalty, (units of y²)."""
        return self.found.loss

    @property
    def bias(self) -> float:
        """What decay and input noise cost by moving the mean away from the optimum u: ``½ (θ*−u)ᵀA(θ*−u)``."""
        away = self.found.centre - self.optimum
        return float(away @ self.features @ away) / 2

    @property
    def excess(self) -> float:
        """Loss on clean data over that of the optimum, ``½ Tr(AΣ)`` and the `bias`: the test loss where A is that of
        the population, which a data set's own A is not (see `loss_on`).
        """
        return self._excess(self.covariance)

    def _excess(self, covariance) -> float:
        return float(np.sum(self.features * covariance)) / 2 + self.bias

    def loss_on(self, x, y) -> float:
        """Mean loss in the long run on other data, ``½ E (xᵀθ − y)²`` over x (m, d), y (m,): a test set. Directions
        that stand still are taken to stand at zero. Raises WrongType, Refused for shapes that do not fit.

        >>> one = strength(data=([[1.0], [-1.0]], [1.0, 1.0]), lr=0.5, b=1)  # θ ← θ/2 ± ½: Σ = ⅓
        >>> round(one.loss_on([[1.0]], [2.0]), 6)  # (4 + ⅓)/2
        2.166667
        """
        x = array("x", x, ("m", len(self.features)))
        y = array("y", y, (len(x),))
        squared = (x @ self.found.centre - y) ** 2 + np.einsum("ij,jk,ik->i", x, self.covariance, x)
        return float(squared.mean()) / 2

    @cached_property
    def tail(self) -> tuple[float, float]:
        """The ends between which the tail index lies (`support.exact.tail_range`): moments below it exist."""
        return tail_range(self.descent, self.b, self.replace)

    @cached_property
    def gain(self) -> float:
        """By how much the noise that the fluctuation makes exceeds the noise that made it; below 1 (see
        `support.exact.stationary.gain`).
        """
        return gain(self.descent)

    @cached_property
    def largest_lr(self) -> float:
        """The learning rate at which the second moment ceases to exist."""
        return self.lr * headroom(self.descent)

    @cached_property
    def smallest_b(self) -> int:
        """The smallest batch for which the second moment exists."""
        return _smallest_batch(self.descent, self.replace)

    @cached_property
    def decays(self) -> tuple[float, float]:
        """The weight decays between which the second moment exists."""
        own = self.descent.decay[0, 0]
        low, high = decay_window(self.descent)
        return float(own + low), float(own + high)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return float(self.descent.lr[0, 0])

    @cached_property
    def misses(self) -> dict[str, Miss]:
        """The relative errors of every approximation that applies, by name, the simplest first; empty where nothing
        fluctuates.
        """
        if not fluctuates(self.descent):
            return {}
        guesses = {one.name: one.evaluate(self.descent) for one in APPROXIMATIONS}
        return {name: miss(g, self.covariance, self.features) for name, g in guesses.items() if g is not None}

    def simplest(self, error: str = "worst") -> str | None:
        """The simplest approximation with at most a tenth of error, by name, None where there is none: of "loss",
        ½Tr(AΣ), or of vᵀΣv in the "worst" direction v. Raises Refused for another error.

        >>> one = strength([1.0, 0.1], lr=0.1, b=8, momentum=0.9)
        >>> one.simplest("loss"), one.simplest("worst")
        ('loss-proportional', 'loss-proportional')
        """
        error = choice("error", error, Miss._fields)
        known = {a.name: getattr(self.misses[a.name], error) for a in CANDIDATES if a.name in self.misses}
        return next((name for name, value in known.items() if abs(value) <= CLOSE), None)

    def along(self, name: str, values: Iterable[float], theories: Iterable[str] = NAMES) -> dict[str, np.ndarray]:
        """`excess` for other values of one of lr, b, momentum, decay: "exact", and the approximations of these names,
        all if left out, (m,) each; nan where the exact one or the approximation does not exist. Raises WrongType,
        Refused for another name or values that are none.

        >>> curves = strength(1.5, lr=1.0, b=12, variance=0.25).along("lr", [0.5, 1.0, 2.0])
        >>> curves["exact"].round(4).tolist()
        [0.0069, 0.0625, nan]
        """
        name = choice("name", name, ("lr", "b", "momentum", "decay"))
        values = array("values", values, ("m",))
        wanted = [choice("theories", n, NAMES) for n in instance("theories", theories, (list, tuple), "give names")]
        curves = {key: np.full(len(values), math.nan) for key in ("exact", *wanted)}
        for k, value in enumerate(values):
            if name == "b":
                size = integer("b", int(value) if value == int(value) else float(value), 1)
                noise = _batch_noise(self.descent.population, size, self.replace)
                one = replace(self, b=size, descent=self.descent.changed(noise=noise))
            else:
                one = replace(self, descent=self.descent.changed(**{name: float(value)}))
            if not one.gain < 1 - 1e-12:
                continue
            curves["exact"][k] = one.excess
            for other in APPROXIMATIONS:
                if other.name in wanted and (guess := other.evaluate(one.descent)) is not None:
                    curves[other.name][k] = one._excess(guess)
        return curves

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The report: at most eight lines of a name and a text."""
        spread = f"{np.trace(self.covariance):.4g}"
        if (moving := self.by_direction[: len(self.features) - self.still]).shape[0] > 1:
            spread += f", {moving[0, 1]:.3g} in the sharpest direction, {moving[-1, 1]:.3g} in the flattest"
        if self.still:
            spread += f"; {self.still} without data, where θ stands still"
        low, high = self.decays
        over = f"{self.excess:.4g}" + (f", of which bias {self.bias:.4g}" if self.bias > 1e-12 * self.excess else "")
        return [
            ("fluctuation Tr Σ", spread),
            ("training loss", f"{self.train:.4g}"),
            ("loss over the optimum", over),
            ("tail index β", _tail_text(*self.tail)),
            ("largest stable lr", f"{self.largest_lr:.4g}, {self.largest_lr / self.lr:.3g} times this one"),
            ("smallest stable batch", f"{self.smallest_b}, gain {self.gain:.3g}"),
            ("stable weight decay", f"{0.0 if abs(low) < 1e-9 * high else low:.4g} to {high:.4g}"),
            ("simplest that serves", self._simplest_text()),
        ]

    def _simplest_text(self):
        if not self.misses:
            return "nothing fluctuates"
        served = {}
        kinds = (("loss", "for the loss"), ("worst", "for every direction"))[: len(self.features)]
        for error, what in kinds:
            if (name := self.simplest(error)) is None:
                served[f"none within {100 * CLOSE:.0f} % {what}"] = [""]
            else:
                served.setdefault(name, []).append(f"{_percent(getattr(self.misses[name], error))} {what}")
        return "; ".join(": ".join(filter(None, (name, ", ".join(said)))) for name, said in served.items())

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.rows)


def strength(
    features=None,
    *,
    data=None,
    lr: float,
    b: int,
    momentum: float = 0.0,
    decay: float = 0.0,
    variance: float | None = None,
    blur=None,
    target=None,
    replace: bool = True,
) -> Strength:
    """The strength of SGD's noise in one setting.

    The problem is either ``features``, Gaussian inputs of covariance A (a number, eigenvalues (d,), or a matrix
    (d, d)), b fresh samples a step, labels ``uᵀx`` with noise; or ``data = (x, y)``, x (n, d), y (n,), a training set
    whose residuals are the label noise.
    lr η > 0, momentum 0 ≤ μ < 1, decay γ of any sign: numbers.  variance: σ² of the label noise, 1 if left out; with
    data, of a noise that is added to the labels whenever they are drawn, none if left out.  blur: covariance of
    Gaussian noise on the inputs, in the forms of ``features``: augmentation.  target: u, (d,) or a number for every
    entry; decay and blur with features need it.  replace: False for batches of a data set without replacement.

    Raises WrongType, Refused for bad shapes and for settings that are not stable, with the bound and the largest stable
    lr.

    >>> one = strength([1.0, 0.1], lr=0.1, b=8, momentum=0.9)
    >>> round(one.excess, 4)
    0.0405
    """
    momentum, replace = real("momentum", momentum, 0), boolean("replace", replace)
    lr, b, decay = real("lr", lr, above=0), integer("b", b, 1, why="a batch holds at least 1"), real("decay", decay)
    if (features is None) == (data is None):
        raise Refused("give either features, the covariance of Gaussian inputs, or data = (x, y), and not both")
    if data is None:
        if not replace:
            raise Refused("replace = False draws from a data set: give data = (x, y), or leave replace out")
        moved = target is None and (decay != 0 or blur is not None)
        if moved:
            raise Refused("target is missing: what decay and blur cost depends on it; give u, (d,), or a number")
        clean, population = _gaussian(features, variance, blur, target)
    else:
        if target is not None:
            raise Refused("target is for features, data have their own: leave it out")
        clean, population = _training_set(data, variance, blur, replace)
    descent = Descent(population, _batch_noise(population, b, replace), lr, momentum, decay)
    if not (found := gain(descent)) < 1 - 1e-12:  # at the edge itself rounding would decide
        raise Refused(_unstable(descent, found, replace))
    return Strength(descent, clean.second_moment, clean.optimum, b, replace)


def _covariance(name, value, d=None):
    """A number, eigenvalues or a matrix as a covariance (d, d)."""
    value = array(name, value)
    if value.ndim < 2:
        value = np.diag(np.atleast_1d(value)) if value.ndim or d is None else float(value) * np.eye(d)
    value = symmetric(name, value, d)
    if len(value) and (least := float(np.linalg.eigvalsh(value)[0])) < -1e-10 * np.abs(value).max():
        raise Refused(f"{name} has the negative eigenvalue {least:.4g}: give a covariance, whose eigenvalues are ≥ 0")
    if not value.any() and d is None:
        raise Refused(f"{name} is zero: there is no direction in which anything could be learnt")
    return value


def _gaussian(features, variance, blur, target):
    a = _covariance("features", features)
    variance = real("variance", 1.0 if variance is None else variance, 0)
    u = array("target", 0.0 if target is None else target)
    u = np.full(len(a), float(u)) if u.ndim == 0 else array("target", u, (len(a),))
    clean = GaussianPopulation(a, u, variance)
    return clean, clean if blur is None else input_noise(a, _covariance("blur", blur, len(a)), u, variance)


def _training_set(data, variance, blur, replace):
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise Refused("data is no pair: give (x, y), inputs (n, d) and labels (n,)")
    x = array("x", data[0], ("n", "d"))
    clean = FinitePopulation(x, array("y", data[1], (len(x),)))
    variance = real("variance", 0.0 if variance is None else variance, 0)
    if blur is None and not variance:
        return clean, clean
    if not replace:
        raise Refused("blur and variance make every draw a fresh one: leave replace out")
    d = x.shape[1]
    return clean, BlurredPopulation(clean, np.zeros((d, d)) if blur is None else _covariance("blur", blur, d), variance)


def _batch_noise(population, b, replace):
    return fixed(MiniBatch(len(population.inputs), b, replace=replace)) if _finite(population) else matched(b)


def _finite(population):
    return isinstance(population, FinitePopulation)


def _smallest_batch(descent, replace):
    """The gain is proportional to the strength of the noise, which is 1 for a single sample."""
    alone = gain(descent.changed(noise=matched(1)))
    if replace or not _finite(descent.population):
        size = alone
    else:
        n = len(descent.population.inputs)
        size = n * alone / (alone + n - 1)  # (n − b)/(b(n − 1)) = 1/alone
    return max(math.floor(size * (1 + 1e-9)) + 1, 1)


def _unstable(descent, found, replace):
    lr, decay = float(descent.lr[0, 0]), float(descent.decay[0, 0])
    flattest = float(np.linalg.eigvalsh(descent.curvature)[0])
    if not flattest > 0:
        return f"decay = {decay:.6g} pushes the flattest direction away: take decay above {decay - flattest:.6g}"
    why = "the mean of θ does not settle" if math.isinf(found) else f"the second moment diverges, gain {found:.4g} ≥ 1"
    text = f"lr = {lr:.6g} is unstable: {why}; take lr below {lr * headroom(descent):.6g}"
    if math.isinf(found):
        return text
    return f"{text}, or b of at least {_smallest_batch(descent, replace)}"


def _tail_text(low, high):
    if low == high:
        return "∞, the law has no power-law tail" if math.isinf(low) else f"{low:.3g}, moments of order below it exist"
    if math.isinf(high):
        return f"above {low:.3g}, moments up to this order exist"
    return f"above {low:.3g} and at most {high:.3g}, moments of order {high:.3g} do not exist"


def _percent(error):
    return f"{100 * error:+.2g} %" if abs(error) >= 5e-6 else "0 %"
