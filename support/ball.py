"""A local complexity as an interactive picture in HTML, which needs no network and no library.

The losses are those of `support.exact.complexity.kinked`: of one parameter, linear between knots. The numbers that the
picture states are evaluated here, by `given_data`, at every radius that its slider can reach; the script looks them up,
and draws the weighted sum of the losses for one value of V at a time.
"""

from __future__ import annotations

import html as _html
import json
from collections.abc import Mapping

import numpy as np

from support.errors import Refused, array, instance, integer, real
from support.exact.complexity import given_data, kinked
from support.exact.multipliers import Multipliers
from support.plotting import BLUE, GREEN, GREY, INK, MUTED, VERMILION


def rising(knots, losses, centre: float, radii, multipliers: Multipliers) -> list[list[float]]:
    """``[R, R₀]`` at each radius: the local complexity with and without the absolute value, in units of the loss.

    knots, losses, centre: as for `kinked`; radii: δ > 0, (m,). Raises as `kinked` and `given_data`.

    >>> from support.exact.multipliers import signs
    >>> rising([0.0, 1.0, 2.0], [[1.0], [0.0], [1.0]], 1.0, [0.5, 1.0], signs(1))  # one loss, |θ' − 1|
    [[0.5, 0.25], [1.0, 0.5]]
    """
    classes = [kinked(knots, losses, centre, delta) for delta in array("radii", radii, ("m",))]
    return [[given_data(one, multipliers, absolute).value for absolute in (True, False)] for one in classes]


def picture(
    knots, losses, centre: float, radii, noises: Mapping[str, Multipliers], *, start: int = 0, key: str = "local-ball"
) -> str:
    """The interactive picture as HTML: the weighted sum of the losses and its largest value in the ball for one value
    of V, beside the mean over all values of V as the radius grows. The reader chooses radius, noise and value of V.

    knots, losses, centre: as for `kinked`; radii: rising, at least 2; start: the index of the one shown first.
    noises: ``{name: multipliers}``. key: id of the element, unique on its page. Without a script a sentence stays, with
    the numbers of the first radius and noise. Raises WrongType, NotFinite, Refused as `rising`, and for radii that do
    not rise, no noise, or a start of no radius.

    >>> from support.exact.multipliers import signs
    >>> "radius 0.5" in picture([0.0, 1.0, 2.0], [[1.0], [0.0], [1.0]], 1.0, [0.5, 1.0], {"signs": signs(1)})
    True
    """
    radii, centre = array("radii", radii, ("m",)), real("centre", centre)
    if len(radii) < 2 or not (np.diff(radii) > 0).all():
        raise Refused(f"{len(radii)} radii do not rise: give at least two, in rising order")
    start = integer("start", start, 0, len(radii) - 1)
    instance("key", key, str, "give the id of an element")
    if not instance("noises", noises, Mapping, "give {name: multipliers}"):
        raise Refused("noises are empty: give {name: multipliers}, such as {'signs': signs(n)}")
    for name, V in noises.items():
        instance(f"noise {name!r}", V, Multipliers, "give one such as signs(n) or batches(n, b)")
    tables = {name: rising(knots, losses, centre, radii, V) for name, V in noises.items()}
    data = {
        "knots": _short(knots),
        "losses": _short(np.asarray(losses, float).T),
        "centre": centre,
        "radii": _short(radii),
        "names": list(noises),
        "values": [_short(V.values) for V in noises.values()],
        "tables": [_short(table) for table in tables.values()],
        "colours": {"line": BLUE, "top": VERMILION, "plain": GREEN, "grey": GREY, "ink": INK, "muted": MUTED},
    }
    first = next(iter(noises))
    pieces = {
        "KEY": key,
        "OPTIONS": "".join(f"<option>{_html.escape(name)}</option>" for name in noises),
        "LAST": str(len(radii) - 1),
        "START": str(start),
        "WORDS": f"Multipliers: {_html.escape(first)}; radius {radii[start]:g}. The mean of the largest absolute "
        f"values, the complexity, is {tables[first][start][0]:.3f}; without the absolute value, "
        f"{tables[first][start][1]:.3f}.",
    }
    text = _PAGE
    for name, value in pieces.items():
        text = text.replace(f"@{name}@", value)
    return text.replace("@DATA@", json.dumps(data, separators=(",", ":")).replace("</", "<\\/"))


def _short(numbers) -> list:
    """Nested lists of numbers of five decimals."""
    return np.round(np.asarray(numbers, float), 5).tolist()


_PAGE = """<div id="@KEY@" class="local-ball">
<style>
#@KEY@ { text-align: left; border: 1px solid #c9ced6; border-radius: .3rem; padding: .7rem .9rem;
  background: #fff; color: #1f2933; }
#@KEY@ p, #@KEY@ label, #@KEY@ output { color: inherit; }
#@KEY@ .controls { display: flex; flex-wrap: wrap; gap: .5rem 1.1rem; align-items: end; margin-bottom: .6rem; }
#@KEY@ [hidden] { display: none; }
#@KEY@ label { display: flex; flex-direction: column; font-size: .9em; margin: 0; }
#@KEY@ select, #@KEY@ button { font: inherit; color: inherit; background: #fff;
  border: 1px solid currentColor; border-radius: .25rem; padding: .2rem .45rem; max-width: 100%; }
#@KEY@ input { width: 12rem; max-width: 100%; accent-color: #0072B2; }
#@KEY@ :focus-visible { outline: 2px solid #E69F00; outline-offset: 2px; }
#@KEY@ .pictures { display: flex; flex-wrap: wrap; gap: .8rem; }
#@KEY@ svg { background: #fff; height: auto; min-width: 0; max-width: 100%; flex: 1 1 16rem; }
#@KEY@ p { margin: .5rem 0 0; }
@media print { #@KEY@ .controls { display: none; } }
</style>
<form class="controls" hidden onsubmit="return false">
<label><span>radius δ = <output name="shown"></output></span>
<input type="range" name="radius" min="0" max="@LAST@" value="@START@"></label>
<label>multipliers <select name="noise">@OPTIONS@</select></label>
<button type="button" name="again">another value of V</button>
</form>
<div class="pictures" hidden><svg class="sum" role="img" viewBox="0 0 330 232"></svg>
<svg class="mean" role="img" viewBox="0 0 330 232"></svg></div>
<p class="words" aria-live="polite">@WORDS@</p>
<script type="application/json" class="data">@DATA@</script>
<script>
(function () {
  const root = document.getElementById("@KEY@");
  if (!root || root.dataset.live) return;
  const data = JSON.parse(root.querySelector(".data").textContent), c = data.colours;
  const f = root.querySelector("form").elements, find = s => root.querySelector(s);
  const minus = s => String(s).replace(/-/g, "\\u2212"), n = data.losses.length, knots = data.knots;
  const between = (ys, x) => {  // linear between knots
    let k = 1;
    while (k < knots.length - 1 && knots[k] < x) k++;
    return ys[k - 1] + (ys[k] - ys[k - 1]) * (x - knots[k - 1]) / (knots[k] - knots[k - 1]);
  };
  const L = 34, R = 318, T = 26, B = 196;
  const text = (x, y, s, more) => `<text x="${x}" y="${y}" font-size="11" fill="${c.ink}" ${more || ""}>${s}</text>`;
  const line = (points, colour, width, more) => `<polyline fill="none" stroke="${colour}" stroke-width="${width}" ` +
    `points="${points.map(p => p.map(z => z.toFixed(1)).join(",")).join(" ")}" ${more || ""}/>`;
  const dot = (x, y, colour) => `<circle cx="${x}" cy="${y}" r="4.5" fill="${colour}"/>`;
  let turn = 0;
  function draw() {
    const d = +f.radius.value, delta = data.radii[d], k = f.noise.selectedIndex, all = data.values[k];
    const v = all[(turn * 7 + 5) % all.length], table = data.tables[k];
    f.shown.value = delta;
    const sum = knots.map((_, j) => data.losses.reduce((s, l, i) => s + v[i] * l[j], 0) / n);
    const ends = [data.centre - delta, data.centre + delta];
    const inside = [ends[0], ...knots.filter(x => ends[0] < x && x < ends[1]), ends[1]];
    const best = inside.map(x => [x, between(sum, x)]).sort((p, q) => Math.abs(q[1]) - Math.abs(p[1]))[0];
    const reach = 1.15 * data.radii[data.radii.length - 1];
    const cut = [data.centre - reach, data.centre + reach].map(x => Math.min(Math.max(x, knots[0]), knots.at(-1)));
    const seen = [cut[0], ...knots.filter(x => cut[0] < x && x < cut[1]), cut[1]];
    const top = 1.1 * Math.max(...all.map(w => Math.max(...seen.map(x =>
      Math.abs(w.reduce((s, wi, i) => s + wi * between(data.losses[i], x), 0) / n)))));
    const X = x => L + (R - L) * (x - cut[0]) / (cut[1] - cut[0]), Y = y => (T + B) / 2 - (B - T) / 2 * y / top;
    let left = `<rect x="${X(ends[0])}" y="${T}" width="${X(ends[1]) - X(ends[0])}" height="${B - T}" ` +
      `fill="${c.grey}" opacity=".2"/>` + line([[L, Y(0)], [R, Y(0)]], c.muted, .8);
    left += line(seen.map(x => [X(x), Y(between(sum, x))]), c.line, 1.2, 'opacity=".5"');
    left += line(inside.map(x => [X(x), Y(between(sum, x))]), c.line, 2.6);
    left += line([[X(best[0]), Y(0)], [X(best[0]), Y(best[1])]], c.top, 1.5) + dot(X(best[0]), Y(best[1]), c.top);
    left += text(8, 14, "weighted mean loss for one V, over θ\\u2032");
    left += text(L - 5, Y(0) + 4, "0", 'text-anchor="end"');
    left += text(X(data.centre), B + 14, "θ", 'text-anchor="middle"');
    const shown = v.map(x => minus(+x.toFixed(2))).join(", ");
    find(".sum").innerHTML = left + text(8, B + 32, "V = (" + shown + ")");
    const high = 1.1 * Math.max(...data.tables.map(t => Math.max(...t.map(r => r[0]))));
    const P = x => L + (R - L) * x / data.radii.at(-1), Q = y => B - (B - T) * y / high;
    let right = line([[L, B], [R, B]], c.muted, .8) + line([[L, T], [L, B]], c.muted, .8);
    [[0, c.top], [1, c.plain]].forEach(([j, colour]) => {
      right += line(table.map((r, i) => [P(data.radii[i]), Q(r[j])]), colour, 2);
      right += dot(P(delta), Q(table[d][j]), colour);
    });
    const end = table.at(-1);
    right += text(R, Q(end[0]) - 7, "with |·|", 'text-anchor="end"');
    right += text(R, Q(end[1]) + 18, "without", 'text-anchor="end"');
    right += text(8, 14, "mean over all " + all.length + " values of V, against δ");
    right += text(L - 5, B + 4, "0", 'text-anchor="end"') + text(L - 5, Q(high / 1.1) + 4, (high / 1.1).toFixed(1),
      'text-anchor="end"') + text(R, B + 14, "δ = " + data.radii.at(-1), 'text-anchor="end"');
    find(".mean").innerHTML = right;
    const words = `Multipliers: ${data.names[k]}; radius ${delta}. For this V the largest absolute value in the ball ` +
      `is ${Math.abs(best[1]).toFixed(3)}. The mean over all V, the complexity, is ${table[d][0].toFixed(3)}; ` +
      `without the absolute value, ${table[d][1].toFixed(3)}.`;
    find(".words").textContent = words;
    find(".sum").setAttribute("aria-label", "The weighted mean loss over the parameter. " + words);
    find(".mean").setAttribute("aria-label", "The complexity against the radius. " + words);
  }
  root.querySelector("form").addEventListener("input", draw);
  f.again.addEventListener("click", () => { turn += 1; draw(); });
  root.dataset.live = "yes";
  root.querySelector("form").hidden = false;
  find(".pictures").hidden = false;
  draw();
})();
</script>
</div>
"""
