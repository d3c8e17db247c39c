r"""The calculator of the noise's strength as an interactive picture in HTML, which needs no network and no library.

Its script solves SGD on Gaussian inputs with the curvatures ``a_i = i^{−p}`` by the equations of
`support.exact.stationary` in modes, and five of `support.exact.approximations` beside it. A test in a browser compares
its numbers with those of `support.strength`.
"""

from __future__ import annotations

import html as _html
import json

import numpy as np

from support.errors import instance, integer, real
from support.strength import CLOSE, Strength, strength
from support.style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION

SHOWN = {  # of the approximations, the simplest first: colour and dashes
    "small rate": (VERMILION, "7 4"),
    "Ornstein-Uhlenbeck": (ORANGE, "2 4"),
    "loss-proportional": (PURPLE, "12 3 2 3"),
    "general minimum": (SKY, "7 4"),
    "constant noise": (GREEN, "2 4"),
}
LIMITS = {
    "lr": (0.005, 4.0),
    "b": (1, 512),
    "momentum": (0.0, 0.99),
    "decay": (-0.5, 2.0),
    "d": (1, 60),
    "power": (0, 2),
}


def spectrum(d: int, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Curvatures ``a_i = i^{−p}``, (d,), the largest being 1, and a target u (d,) of equal entries with uᵀAu = 1: the
    labels' signal is as strong as their noise σ² = 1. Raises WrongType, Refused for d < 1 or power < 0.

    >>> [part.round(3).tolist() for part in spectrum(2, 1.0)]
    [[1.0, 0.5], [0.816, 0.816]]
    """
    values = np.arange(1, integer("d", d, 1) + 1) ** -real("power", power, 0)
    return values, np.full(len(values), values.sum() ** -0.5)


def setting(lr: float, b: int, momentum: float, decay: float, d: int, power: float) -> Strength:
    """What the picture shows for these values, by the package. Raises as `support.strength.strength`, Refused for
    settings that are not stable.

    >>> round(setting(0.5, 8, 0.0, 0.0, 1, 1.0).excess, 6)  # 0.25/(16 − 5)
    0.022727
    """
    a, target = spectrum(d, power)
    return strength(a, lr=lr, b=b, momentum=momentum, decay=decay, target=target)


def calculator(
    lr: float = 0.5,
    b: int = 8,
    momentum: float = 0.0,
    decay: float = 0.0,
    *,
    d: int = 10,
    power: float = 1.0,
    key: str = "noise-calculator",
) -> str:
    """The interactive picture as HTML: loss against learning rate up to the edge, exact and approximated, the reader's
    setting marked, and a table of its numbers.

    The first values are those given, cut to `LIMITS`; lr and decay are in units of the largest curvature.  key: id of
    the element, unique on its page. Without a script (print, a notebook that is not trusted) the table stays, with the
    numbers of these values. Raises WrongType for another type, Refused for values that are none or not stable.

    >>> "largest stable rate" in calculator(0.2, 4, d=3)
    True
    """
    first = {
        "lr": real("lr", lr, above=0),
        "b": integer("b", b, 1),
        "momentum": real("momentum", momentum),
        "decay": real("decay", decay),
        "d": integer("d", d, 1),
        "power": real("power", power, 0),
    }
    first = {name: min(max(value, LIMITS[name][0]), LIMITS[name][1]) for name, value in first.items()}
    instance("key", key, str, "give the id of an element")
    one = setting(**first)
    rows = [("exact", INK, np.trace(one.covariance), one.excess, "")]
    for name, (colour, _) in SHOWN.items():
        guess = (one.misses[name].loss + 1) * (one.excess - one.bias) if name in one.misses else None
        cells = ("", "–", "–") if guess is None else ("", guess + one.bias, f"{100 * one.misses[name].loss:+.0f} %")
        rows.append((name, colour, *cells))
    body = "".join(
        f'<tr><th scope="row" style="box-shadow:inset .3rem 0 {colour}">{_html.escape(name)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, colour, *cells in rows
    )
    data = {
        "first": first,
        "limits": LIMITS,
        "styles": {"exact": (INK, ""), **SHOWN},
        "close": CLOSE,
        "colours": {"ink": INK, "muted": MUTED, "edge": ORANGE, "own": BLUE},
    }
    words = (
        f"Rate times curvature {lr:.3g}, batch {first['b']}: largest stable rate {one.largest_lr:.3g}, "
        f"smallest stable batch {one.smallest_b}, gain {one.gain:.3g}."
    )
    text = _PAGE
    for name, value in {"KEY": key, "ROWS": body, "WORDS": words}.items():
        text = text.replace(f"@{name}@", value)
    return text.replace("@DATA@", json.dumps(data, separators=(",", ":")).replace("</", "<\\/"))


def _text(cell) -> str:
    return (cell if isinstance(cell, str) else f"{cell:.3g}").replace("-", "−")


_PAGE = """<div id="@KEY@" class="noise-calculator">
<style>
#@KEY@ { text-align: left; border: 1px solid #c9ced6; border-radius: .3rem; padding: .7rem .9rem;
  background: #fff; color: #1f2933; }
#@KEY@ p, #@KEY@ label, #@KEY@ output { color: inherit; }
#@KEY@ .controls { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem 1.3rem;
  margin-bottom: .5rem; }
#@KEY@ [hidden] { display: none; }
#@KEY@ label { display: flex; flex-direction: column; font-size: .9em; margin: 0; }
#@KEY@ input { width: 100%; accent-color: #0b4f9e; }
#@KEY@ :focus-visible { outline: 2px solid #E69F00; outline-offset: 2px; }
#@KEY@ .both { display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: center; }
#@KEY@ svg { background: #fff; height: auto; min-width: 0; max-width: 100%; flex: 5 1 16rem; }
#@KEY@ p { margin: .4rem 0; min-height: 3em; }
#@KEY@ .scroll { overflow-x: auto; flex: 4 1 14rem; }
#@KEY@ table { border-collapse: collapse; margin: 0; font-size: .9em; width: auto; color: inherit; }
#@KEY@ th, #@KEY@ td { padding: .12rem .55rem; text-align: left; border: 0; color: inherit;
  border-bottom: 1px solid #c9ced6; background: transparent; font-weight: normal; }
#@KEY@ thead th, #@KEY@ .chosen th, #@KEY@ .chosen td { font-weight: 600; }
#@KEY@ tbody th, #@KEY@ td { white-space: nowrap; }
@media (max-width: 500px) { #@KEY@ .controls { grid-template-columns: 1fr 1fr; } #@KEY@ table { font-size: .85em; } }
@media print { #@KEY@ .controls { display: none; } }
</style>
<form class="controls" hidden onsubmit="return false">
<label><span>rate × curvature = <output name="lrshown"></output></span><input type="range" name="lr"></label>
<label><span>batch b = <output name="bshown"></output></span><input type="range" name="b"></label>
<label><span>momentum = <output name="momentumshown"></output></span><input type="range" name="momentum"></label>
<label><span>decay / curvature = <output name="decayshown"></output></span><input type="range" name="decay"></label>
<label><span>directions = <output name="dshown"></output></span><input type="range" name="d"></label>
<label><span>curvatures i<sup>−p</sup>, p = <output name="powershown"></output></span>
<input type="range" name="power"></label>
</form>
<p class="words" aria-live="polite">@WORDS@</p>
<div class="both"><svg role="img" viewBox="0 0 380 250" hidden></svg>
<div class="scroll" tabindex="0" role="region" aria-label="numbers of this setting"><table>
<thead><tr><th>theory</th><th>Tr Σ</th><th>loss over the optimum</th><th>error</th></tr></thead>
<tbody>@ROWS@</tbody></table></div></div>
<script type="application/json" class="data">@DATA@</script>
<script>
(function () {
  const root = document.getElementById("@KEY@");
  if (!root || root.dataset.live) return;
  const data = JSON.parse(root.querySelector(".data").textContent), form = root.querySelector("form");
  const f = form.elements, svg = root.querySelector("svg"), sum = v => v.reduce((s, x) => s + x, 0);
  const dot = (v, w) => sum(v.map((x, i) => x * w[i]));
  const short = x => String(Number(x.toPrecision(3))).replace("-", "\\u2212");

  // the problem: curvatures a, target u with u'Au = 1, label noise of variance 1; k = a + decay, shift c = θ* - u
  function problem({d, power, decay}) {
    const a = Array.from({length: d}, (_, i) => Math.pow(i + 1, -power)), u = Math.pow(sum(a), -.5);
    const k = a.map(x => x + decay), c = k.map(x => -decay * u / x);
    return {a, k, c, mean: k.map((x, i) => a[i] * u / x), level: 1 + dot(a, c.map(x => x * x))};
  }
  // what resists a fluctuation in each direction: Theorem 1, and its first order alone (continuous time)
  const drag = (k, lr, mu) => k.map(x => 2 * (1 - mu) * lr * x - (1 - mu) / (1 + mu) * (lr * x) ** 2);
  const slow = (k, lr, mu) => k.map(x => 2 * (1 - mu) * lr * x);
  const settles = (p, lr, mu) => p.k.every(x => x > 0 && lr * x < 2 * (1 + mu));

  // spectral radius of the loop from noise to fluctuation to noise, for one sample a step
  function gain(p, lr, mu) {
    if (!settles(p, lr, mu)) return Infinity;
    const D = drag(p.k, lr, mu), w = p.a.map((x, i) => (lr * x) ** 2 / D[i]), most = Math.max(...w);
    let low = most, high = most * (w.length + 1);
    for (let i = 0; i < 200; i++) {
      const g = (low + high) / 2;
      if (sum(w.map(x => x / (g - x))) > 1) low = g; else high = g;
    }
    return high;
  }
  // what the pairs of a batch leave of the drag
  const left = (p, lr, b, mu) => drag(p.k, lr, mu).map((x, i) => x - (lr * p.a[i]) ** 2 / b);
  function edge(p, b, mu) {
    let low = 0, high = 2 * (1 + mu) / Math.max(...p.k);
    for (let i = 0; i < 200; i++) {
      const lr = (low + high) / 2, own = left(p, lr, b, mu);
      if (own.every(x => x > 0) && sum(p.a.map((x, i) => (lr * x) ** 2 / own[i])) < b) low = lr; else high = lr;
    }
    return low;
  }
  // the diagonals of Σ: exact, one equation for t = Tr AΣ; and the approximations, C over a resistance
  function spreads(p, lr, b, mu) {
    const {a, c, level} = p, D = drag(p.k, lr, mu), S = slow(p.k, lr, mu);
    const square = a.map((x, i) => (x * c[i]) ** 2), own = left(p, lr, b, mu);
    const less = 1 - sum(a.map((x, i) => (lr * x) ** 2 / own[i])) / b;
    const t = sum(a.map((x, i) => x * lr * lr * (square[i] + level * x) / b / own[i])) / less;
    const over = (C, R) => C.map((x, i) => lr * lr * x / b / R[i]);
    const still = a.map((x, i) => square[i] + level * x), unit = over(a, S), grown = dot(a, unit);
    return {
      "exact": over(a.map((x, i) => square[i] + (level + t) * x), own),
      "small rate": over(a.map(x => level * x), S),
      "Ornstein-Uhlenbeck": over(still, S),
      "loss-proportional": grown < 1 ? unit.map(x => level * x / (1 - grown)) : null,
      "general minimum": over(a.map((x, i) => level * x - ((p.k[i] - x) * p.mean[i]) ** 2), D),
      "constant noise": over(still, D),
    };
  }
  const loss = (p, spread) => (dot(p.a, spread) + p.level - 1) / 2;

  const logarithmic = {lr: 400, b: 100};  // steps
  const steps = {momentum: .01, decay: .01, d: 1, power: .05};
  const read = name => {
    const x = +f[name].value;
    return !(name in logarithmic) ? x : name === "b" ? Math.round(Math.exp(x)) : Math.exp(x);
  };
  for (const [name, [low, high]] of Object.entries(data.limits)) {
    const log = name in logarithmic, place = x => log ? Math.log(x) : x;
    f[name].min = place(low); f[name].max = place(high);
    f[name].step = log ? "any" : steps[name];
    f[name].value = place(data.first[name]);
  }

  function draw() {
    const s = Object.fromEntries(Object.keys(data.limits).map(name => [name, read(name)]));
    for (const name in s) f[name + "shown"].value = name === "b" || name === "d" ? s[name] : short(s[name]);
    const p = problem(s), alone = gain(p, s.lr, s.momentum), stable = alone < s.b, pulled = p.k.every(x => x > 0);
    const limit = pulled ? edge(p, s.b, s.momentum) : 0, smallest = Math.max(1, Math.floor(alone * (1 + 1e-9)) + 1);
    const own = stable ? spreads(p, s.lr, s.b, s.momentum) : {}, exact = stable ? loss(p, own.exact) : NaN;
    const floor = (p.level - 1) / 2, numbers = {};
    let simplest = "";
    root.querySelectorAll("tbody tr").forEach((row, i) => {
      const name = Object.keys(data.styles)[i], spread = own[name], value = spread ? loss(p, spread) : NaN;
      const error = (value - floor) / (exact - floor) - 1, cells = row.children;
      if (spread) numbers[name] = [sum(spread), value];
      const serves = i > 0 && spread && Math.abs(error) <= data.close && !simplest;
      if (serves) simplest = name;
      row.className = serves ? "chosen" : "";
      cells[1].textContent = spread ? short(sum(spread)) : "\\u2013";
      cells[2].textContent = spread ? short(value) : "\\u2013";
      cells[3].textContent = !i ? "" : !spread ? "\\u2013" :
        (error < 0 ? "\\u2212" : "+") + Math.abs(100 * error).toFixed(0) + " %";
    });
    const words = !pulled ? "This decay pushes the flattest direction away: SGD does not settle. Raise the decay." :
      (stable ? `Largest stable rate ${short(limit)}, ${short(limit / s.lr)} times this one; smallest stable batch ` +
        `${smallest}, gain ${short(alone / s.b)}. ` +
        `Within 10 % of what the noise costs: ${simplest || "none of the five"}.` :
        `SGD does not settle. Take a rate below ${short(limit)}` +
        (alone < Infinity ? `, or a batch of at least ${smallest}.` : "; no batch helps."));
    root.querySelector(".words").textContent = words;
    root.dataset.numbers = JSON.stringify({...s, stable, edge: limit, smallest, gain: alone / s.b, theories: numbers});
    svg.setAttribute("aria-label", "Loss over the optimum against learning rate. " + words);
    svg.innerHTML = pulled ? picture(p, s, limit, exact) : "";
  }
  function picture(p, s, limit, exact) {
    const [x0, x1, y0, y1] = [46, 372, 210, 26];
    const right = Math.max(limit, s.lr) * 1.15, left = Math.min(limit, s.lr) / 60;
    const at = lr => loss(p, spreads(p, lr, s.b, s.momentum).exact);
    const low = at(left) / 1.6, high = Math.max(at(.97 * limit), 30 * low);
    const X = v => x0 + (x1 - x0) * Math.log(v / left) / Math.log(right / left);
    const Y = v => y0 + (y1 - y0) * Math.log(v / low) / Math.log(high / low);
    const {ink, muted, edge, own} = data.colours;
    const text = (x, y, t, more) => `<text x="${x}" y="${y}" font-size="11" fill="${ink}" ${more || ""}>${t}</text>`;
    const line = (a, b, c, d, colour) => `<path d="M${a} ${b}L${c} ${d}" stroke="${colour}" fill="none"/>`;
    let out = line(x0, y0, x1, y0, muted) + line(x0, y0, x0, y1, muted) + text(4, 14, "loss over the optimum") +
      text(x1, 246, "rate × largest curvature", 'text-anchor="end"');
    for (let e = -9; e < 4; e++) for (const m of [1, 2, 5]) {
      const v = m * 10 ** e, label = e > 2 || e < -3 ? v.toExponential(0) : String(+v.toPrecision(2));
      if (v > left && v < right && (m === 1 || right / left < 300))
        out += line(X(v), y0, X(v), y0 + 4, muted) + text(X(v), y0 + 17, label, 'text-anchor="middle"');
      if (v > low && v < high && m === 1)
        out += line(x0 - 4, Y(v), x0, Y(v), muted) + text(x0 - 7, Y(v) + 4, label, 'text-anchor="end"');
    }
    const points = {}, grid = Array.from({length: 160}, (_, i) => left * (right / left) ** (i / 159));
    for (const lr of [...grid, limit * .999].sort((a, b) => a - b)) {
      if (lr >= limit) break;
      for (const [name, spread] of Object.entries(spreads(p, lr, s.b, s.momentum)))
        if (spread) (points[name] = points[name] || []).push([X(lr), Math.min(Math.max(Y(loss(p, spread)), y1), y0)]);
    }
    for (const [name, [colour, dashes]] of Object.entries(data.styles).reverse())
      out += `<path d="M${(points[name] || []).map(v => v.map(z => z.toFixed(1)).join(" ")).join("L")}" fill="none" ` +
        `stroke="${colour}" stroke-width="${name === "exact" ? 2.4 : 1.7}" stroke-dasharray="${dashes}"/>`;
    out += line(X(limit), y0, X(limit), y1, edge) + text(X(limit) - 4, y1 - 2, "edge", 'text-anchor="end"');
    if (exact === exact) return out + `<circle cx="${X(s.lr)}" cy="${Math.max(Y(exact), y1)}" r="5" fill="${own}"/>`;
    return out + line(X(s.lr), y0, X(s.lr), y1, own);
  }
  form.addEventListener("input", draw);
  root.dataset.live = "yes";
  form.hidden = false;
  svg.removeAttribute("hidden");
  draw();
})();
</script>
</div>
"""
