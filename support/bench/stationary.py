"""What the exact stationary moment of SGD costs: the direct solution against an eigendecomposition, Krylov's against
one Lyapunov equation and against Kronecker, and our Lyapunov solver against scipy's.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy import linalg

from support.bench import measure
from support.bench.exact import kronecker_map

DIRECT = {"d = 100": (100, 40), "d = 300": (300, 15), "d = 1000": (1000, 4)}  # name: (d, pairs)
KRYLOV = {
    f"{kind}, d = {d}": (kind, d, pairs)
    for kind in ("Gaussian, matrix rate", "2d atoms", "2d atoms, momentum")
    for d, pairs in ((100, 15), (200, 5))
}
KRONECKER = {"d = 24, 48 atoms": (24, 20), "d = 32, 64 atoms": (32, 10), "d = 48, 96 atoms": (48, 4)}
PLAIN = {f"{n} × {n}{more}": (n, bool(more), 8) for n in (100, 200, 400) for more in ("", ", each further one")}
GOALS = (
    dict(zip(DIRECT, ("≤ 20", "≤ 20", "≤ 20, in ≤ 5 s"), strict=True))
    | {name: "≤ 160" if "momentum" in name else "≤ 30" for name in KRYLOV}  # momentum's matrices are twice as large
    | dict.fromkeys(KRONECKER, "< 1")
    | {name: "≤ 1" if again else "≤ 1.5" for name, (_, again, _) in PLAIN.items()}
)


def _descent(kind: str, d: int):
    from support.exact.batch_noise import fixed, matched
    from support.exact.populations import FinitePopulation, GaussianPopulation
    from support.exact.second_moments import Descent
    from support.sampling import MiniBatch

    rng, widths = np.random.default_rng(1), 1 / np.arange(1.0, d + 1)
    if "atoms" in kind:
        inputs = rng.standard_normal((2 * d, d)) * np.sqrt(widths)
        data = FinitePopulation(inputs, inputs.sum(1) + rng.standard_normal(2 * d))
        return Descent(data, fixed(MiniBatch(2 * d, 8)), 0.2, 0.5 if "momentum" in kind else 0.0)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    covariance = (turn * widths) @ turn.T
    rate = 0.3 if kind == "Gaussian" else np.diag(0.2 + 0.2 * rng.random(d))
    return Descent(GaussianPopulation((covariance + covariance.T) / 2), matched(8), rate)


def _solve(descent):
    """The whole solution, existence included, of a descent that has computed nothing yet."""
    from support.exact.stationary import stationary

    return lambda: stationary(descent.changed())


def direct(name: str) -> dict:
    """Time of the solution / time of the eigendecomposition of a d x d matrix."""
    d, pairs = DIRECT[name]
    descent = _descent("Gaussian", d)
    found = measure.ratio(_solve(descent), lambda: np.linalg.eigh(descent.population.second_moment), pairs)
    return found | {"residual": _solve(descent)().residual}


def krylov(name: str) -> dict:
    """Time of the solution / time of scipy's solution of one Lyapunov equation of d x d matrices."""
    kind, d, pairs = KRYLOV[name]
    descent = _descent(kind, d)
    mean, forcing = np.eye(d) - descent.rate @ descent.curvature, descent.rate @ descent.forcing @ descent.rate.T
    found = measure.ratio(_solve(descent), lambda: linalg.solve_discrete_lyapunov(mean, forcing), pairs)
    solved = _solve(descent)()
    return found | {"iterations": solved.iterations, "residual": solved.residual}


def kronecker(name: str) -> dict:
    """Time of the solution / time of that of the same equation as a linear system of d² unknowns, O(d⁶)."""
    d, pairs = KRONECKER[name]
    descent = _descent("2d atoms", d)
    lr = float(descent.lr[0, 0])

    def dense():
        step = np.eye(d * d) - kronecker_map(descent.population, descent.noise, lr)
        return np.linalg.solve(step, lr * lr * descent.forcing.ravel()).reshape(d, d)

    theirs, ours = dense(), _solve(descent)().covariance
    found = measure.ratio(_solve(descent), dense, pairs)
    return found | {"difference": float(np.abs(ours - theirs).max() / np.abs(theirs).max())}


def lyapunov(name: str) -> dict:
    """Time of `support.exact.second_moments.Lyapunov` / time of scipy's, for noise that does not depend on θ: one
    equation, or each further one of the same transition. With both residuals, relative to the largest entry.
    """
    from support.exact.second_moments import Lyapunov

    n, again, pairs = PLAIN[name]
    descent = _descent("2d atoms, momentum", n // 2)
    transition, kick = descent.transition
    forcing = kick @ descent.forcing @ kick.T
    ready = Lyapunov(transition)
    theirs = partial(linalg.solve_discrete_lyapunov, transition, forcing)
    found = measure.ratio((lambda: ready(forcing)) if again else (lambda: Lyapunov(transition)(forcing)), theirs, pairs)
    residuals = [
        float(np.abs(transition @ x @ transition.T + forcing - x).max() / np.abs(x).max())
        for x in (ready(forcing), theirs())
    ]
    return found | {"residuals": residuals}


ROWS = {
    "stationary_direct": {name: partial(direct, name) for name in DIRECT},
    "stationary_krylov": {name: partial(krylov, name) for name in KRYLOV},
    "stationary_kronecker": {name: partial(kronecker, name) for name in KRONECKER},
    "stationary_lyapunov": {name: partial(lyapunov, name) for name in PLAIN},
}


def section(final: dict) -> str:
    """The part of the page about the stationary moment, from the numbers of a record."""
    tables = {
        kind: measure.ratio_rows(named, final[f"stationary_{kind}"], GOALS)
        for kind, named in (("direct", DIRECT), ("krylov", KRYLOV), ("kronecker", KRONECKER), ("lyapunov", PLAIN))
    }
    rows, iterations = final["stationary_direct"], [row["iterations"] for row in final["stationary_krylov"].values()]
    (d_0, _), (d_1, _) = (DIRECT[name] for name in ("d = 300", "d = 1000"))
    growth = math.log(rows["d = 1000"]["seconds"][0] / rows["d = 300"]["seconds"][0]) / math.log(d_1 / d_0)
    residuals = [row["residuals"] for row in final["stationary_lyapunov"].values()]
    return _SECTION.format(
        **tables,
        slope=growth,
        least=min(iterations),
        most=max(iterations),
        difference=max(row["difference"] for row in final["stationary_kronecker"].values()),
        ours=max(ours for ours, _ in residuals),
        theirs=max(theirs for _, theirs in residuals),
    )


_SECTION = """## The stationary moment of SGD

`stationary` decides whether the second moment exists, solves for it and computes the residual of a step; one thread.
With Gaussian inputs and commuting matrices the solution is written down in an eigenbasis, so the floor is one
eigendecomposition. From d = 300 to d = 1000 the time grows like d to the power {slope:.1f}.

| direct solution / eigendecomposition | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{direct}

Otherwise an iteration takes one Lyapunov equation and one fourth moment: {least} to {most} iterations here, and about
twenty more products decide about existence. Momentum doubles the size of the matrices, which makes eight times the
work. The floor is one Lyapunov equation of d × d matrices, by scipy.

| Krylov's solution / one Lyapunov equation | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{krylov}

The same equation as a linear system of d² unknowns costs O(d⁶); the two agree to {difference:.0e} of the largest entry.

| Krylov's solution / Kronecker's | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{kronecker}

Without noise that grows with the fluctuation, a Lyapunov equation is all there is. Ours looks whether the transition
is stable and factorises it once and for all, scipy's `solve_discrete_lyapunov` each time; the largest residuals are
{ours:.0e} and {theirs:.0e}.

| our Lyapunov equation / scipy's | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{lyapunov}
"""
