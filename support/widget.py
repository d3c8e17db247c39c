r"""The zoo of noise classes as an interactive picture in HTML, which needs no network and no library.

Everything that the picture's script uses is evaluated here in fractions, from `support.exact.recipes`, for every n, b
and class that its controls can reach; the script looks numbers up, and draws weights by the same recipes.
"""

from __future__ import annotations

import html as _html
import json

from support.errors import choice, instance, integer
from support.exact.batch_noise import a_law
from support.exact.recipes import AGREEMENTS, NAMES, agreement, menagerie, recipe
from support.plotting import BLUE, VERMILION
from support.sampling import Law


def large_batch(n: int, b: int, B: int) -> int:
    """The large batch of the picture: B, but at least b and 2, and at most n. Raises WrongType or Refused for what are
    no counts.

    >>> large_batch(5, 3, 2), large_batch(5, 3, 9)
    (3, 5)
    """
    n, b, B = integer("n", n, 2), integer("b", b, 1), integer("B", B, 1)
    return min(n, max(b, B, 2))


def entry(law: Law) -> list:
    """What the picture's script knows of a law.

    Fractions as text: floor, slot and variance of its recipe, then diagonal, off-diagonal and total variance; the
    number of slots; the index of its agreement. Raises WrongType for what is no law of the zoo.

    >>> from support.sampling import MiniBatch
    >>> entry(MiniBatch(4, 2))
    ['0', '1/2', '0', '3/32', '-1/32', '0', 2, 0]
    """
    a_law(law)
    r, covariance = recipe(law), law.covariance
    numbers = (r.floor, r.slot, r.variance, covariance.diagonal, covariance.off_diagonal, covariance.total_variance)
    return [*map(str, numbers), r.size, AGREEMENTS.index(agreement(law))]


def table(largest: int, B: int) -> dict:
    """All entries: ``table[way][n][b][class]`` for n = 3 … largest, 1 ≤ b ≤ n, with (way "1") and without ("0")
    replacement. Raises WrongType or Refused for what are no counts.

    >>> sorted(table(4, 2)["1"])
    ['3', '4']
    """
    largest, B = integer("largest", largest, 3), integer("B", B, 1)
    return {
        str(int(replace)): {
            str(n): {
                str(b): [entry(law) for law in menagerie(n, b, large_batch(n, b, B), replace=replace).values()]
                for b in range(1, n + 1)
            }
            for n in range(3, largest + 1)
        }
        for replace in (True, False)
    }


def zoo(
    n: int, b: int, B: int, *, chosen: str = "SGD", largest: int = 10, seed: int = 1, key: str = "noise-zoo"
) -> str:
    """The interactive picture as HTML: weights of a class step by step, its covariance, and the table of all classes;
    the reader chooses n, b and class.

    n, b, chosen: what it shows first (n is cut to ``largest``, b to n).  B: the large batch, see `large_batch`.  seed:
    of the first draws. key: id of the element, unique on its page.
    Without a script (print, a notebook that is not trusted) the table stays, with the values of this n and b, drawn
    with replacement.
    Raises WrongType for another type, Refused for a class that is not in `NAMES`, counts below 1, or largest < 3.

    >>> "M-SGD-Rademacher" in zoo(5, 2, 3, largest=5)
    True
    """
    chosen = choice("chosen", chosen, NAMES)
    largest = integer("largest", largest, 3, why="it leaves no choice of n; give at least 3")
    n = max(3, min(integer("n", n, 1), largest))
    b = max(1, min(integer("b", b, 1), n))
    B, seed = integer("B", B, 1), integer("seed", seed, 0)
    instance("key", key, str, "give the id of an element")
    data = {
        "table": table(largest, B),
        "B": B,
        "names": NAMES,
        "agreements": AGREEMENTS,
        "how": [(r.pick, r.noise, r.centred) for r in map(recipe, menagerie(3, 1, 2).values())],
        "seed": seed,
        "colours": [_rgb(BLUE), _rgb(VERMILION)],
    }
    rows = "".join(
        f'<tr{" class=chosen" if name == chosen else ""}><th scope="row">{_html.escape(name)}</th>'
        + "".join(f"<td>{_minus(x)}</td>" for x in shown[3:6])
        + f"<td>{AGREEMENTS[shown[-1]]}</td></tr>"
        for name, shown in zip(NAMES, data["table"]["1"][str(n)][str(b)], strict=True)
    )
    options = "".join(f"<option{' selected' if name == chosen else ''}>{_html.escape(name)}</option>" for name in NAMES)
    pieces = {
        "KEY": key,
        "ROWS": rows,
        "OPTIONS": options,
        "LARGEST": str(largest),
        "NVALUE": str(n),
        "BVALUE": str(b),
        "BIG": str(large_batch(n, b, B)),
    }
    text = _PAGE
    for name, value in pieces.items():
        text = text.replace(f"@{name}@", value)
    return text.replace("@DATA@", json.dumps(data, separators=(",", ":")).replace("</", "<\\/"))


def _rgb(colour: str) -> list[int]:
    return [int(colour[k : k + 2], 16) for k in (1, 3, 5)]


def _minus(text: str) -> str:
    return text.replace("-", "−")


_PAGE = """<div id="@KEY@" class="noise-zoo">
<style>
#@KEY@ { text-align: left; border: 1px solid #c9ced6; border-radius: .3rem; padding: .7rem .9rem;
  background: #fff; color: #1f2933; }
#@KEY@ p, #@KEY@ label, #@KEY@ output { color: inherit; }
#@KEY@ .controls { display: flex; flex-wrap: wrap; gap: .5rem 1.1rem; align-items: end; margin-bottom: .6rem; }
#@KEY@ [hidden] { display: none; }
#@KEY@ label { display: flex; flex-direction: column; font-size: .9em; margin: 0; }
#@KEY@ select, #@KEY@ button { font: inherit; color: inherit; background: #fff;
  border: 1px solid currentColor; border-radius: .25rem; padding: .2rem .45rem; max-width: 100%; }
#@KEY@ input { width: 8rem; max-width: 100%; accent-color: #0072B2; }
#@KEY@ :focus-visible { outline: 2px solid #E69F00; outline-offset: 2px; }
#@KEY@ .pictures { display: flex; flex-wrap: wrap; gap: .8rem; }
#@KEY@ svg { background: #fff; border-radius: .25rem; height: auto; min-width: 0; max-width: 100%; }
#@KEY@ .bars { flex: 5 1 15rem; max-width: 25rem; }
#@KEY@ .matrix { flex: 4 1 12rem; max-width: 20rem; }
#@KEY@ p { margin: .5rem 0; }
#@KEY@ .scroll { overflow-x: auto; }
#@KEY@ table { border-collapse: collapse; margin: .3rem 0 0; font-size: .9em; width: auto; color: inherit; }
#@KEY@ th, #@KEY@ td { padding: .12rem .6rem; text-align: left; white-space: nowrap; border: 0; color: inherit;
  border-bottom: 1px solid #c9ced6; background: transparent; font-weight: normal; }
#@KEY@ thead th { white-space: normal; vertical-align: bottom; }
#@KEY@ thead th, #@KEY@ .chosen th, #@KEY@ .chosen td { font-weight: 600; }
#@KEY@ .chosen th { box-shadow: inset .25rem 0 #0072B2; }
@media (max-width: 500px) { #@KEY@ th, #@KEY@ td { padding: .12rem .3rem; font-size: .93em; white-space: normal; } }
@media print { #@KEY@ .controls { display: none; } }
</style>
<form class="controls" hidden onsubmit="return false">
<label>noise class <select name="class">@OPTIONS@</select></label>
<label><span>samples n = <output name="nshown">@NVALUE@</output></span>
<input type="range" name="n" min="3" max="@LARGEST@" value="@NVALUE@"></label>
<label><span>batch b = <output name="bshown">@BVALUE@</output></span>
<input type="range" name="b" min="1" max="@NVALUE@" value="@BVALUE@"></label>
<label>batches drawn <select name="way"><option value="1">with replacement</option>
<option value="0">without replacement</option></select></label>
<button type="button" name="again">draw again</button>
</form>
<div class="pictures" hidden><svg class="bars" role="img" viewBox="0 0 300 218"></svg>
<svg class="matrix" role="img" viewBox="0 0 240 218"></svg></div>
<p class="words" aria-live="polite">Samples n = @NVALUE@, batch b = @BVALUE@, large batch B = @BIG@,
batches drawn with replacement. Every weight has mean 1/@NVALUE@.</p>
<div class="scroll" tabindex="0" role="region" aria-label="all classes"><table>
<thead><tr><th>class</th><th>diagonal</th><th>off the diagonal</th><th>variance of the sum</th>
<th>shared with SGD</th></tr></thead>
<tbody>@ROWS@</tbody></table></div>
<script type="application/json" class="data">@DATA@</script>
<script>
(function () {
  const root = document.getElementById("@KEY@");
  if (!root || root.dataset.live) return;
  const data = JSON.parse(root.querySelector(".data").textContent);
  const form = root.querySelector("form"), f = form.elements;
  const find = s => root.querySelector(s), minus = s => String(s).replace("-", "\\u2212");
  const value = s => { const [p, q] = s.split("/"); return p / (q || 1); };
  let seed = data.seed, state = 0;
  const random = () => {  // a small generator with a seed, so that a picture can be had again
    state = (state + 0x6D2B79F5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const range = n => [...Array(n).keys()];
  const shuffled = n => range(n).map(i => [random(), i]).sort((x, y) => x[0] - y[0]).map(x => x[1]);
  const pick = {
    all: range, subset: (n, m) => shuffled(n).slice(0, m),
    draws: (n, m) => range(m).map(() => Math.floor(random() * n)),
    coins: (n, m) => range(n).filter(() => random() < m / n),
  };
  function weights(n, e, how) {
    const [floor, slot, variance] = e.slice(0, 3).map(value), slots = pick[how[0]](n, e[6]);
    let noise = slots.map(() => how[1] === "none" ? 0 : how[1] === "signs" ? (random() < .5 ? -1 : 1) : normal());
    if (how[2]) { const mean = noise.reduce((s, x) => s + x, 0) / slots.length; noise = noise.map(x => x - mean); }
    const W = Array(n).fill(floor);
    slots.forEach((i, r) => { W[i] += slot + Math.sqrt(variance) * noise[r]; });
    return W;
  }
  const ink = (x, top) => {
    const t = Math.min(1, Math.abs(x) / top);
    const [r, g, b] = data.colours[x < 0 ? 1 : 0].map(v => Math.round(255 + (v - 255) * t));
    return `rgb(${r},${g},${b})`;
  };
  const text = (x, y, s, more) => `<text x="${x}" y="${y}" font-size="11" fill="#1f2933" ${more || ""}>${s}</text>`;
  const cell = (x, y, w, h, fill) =>
    `<rect x="${x}" y="${y}" width="${w}" height="${h}" fill="${fill}" stroke="#e3e6ea" stroke-width=".7"/>`;
  function draw() {
    const n = +f.n.value;
    f.b.max = n;
    const b = +f.b.value, k = f["class"].selectedIndex, all = data.table[f.way.value][n][b], e = all[k], steps = 9;
    f.nshown.value = n; f.bshown.value = b;
    state = seed;
    const rows = Array.from({length: steps}, () => weights(n, e, data.how[k]));
    const w = 228 / n, h = 19, top = 1.6 / b + .4 / n;
    let bars = text(8, 15, "weights of " + steps + " steps, one row a step");
    bars += text(292, 15, "sum", 'text-anchor="end"');
    rows.forEach((W, t) => {
      W.forEach((x, i) => { bars += cell(8 + i * w, 24 + t * h, w, h, ink(x, top)); });
      bars += text(292, 38 + t * h, minus(W.reduce((s, x) => s + x, 0).toFixed(2)), 'text-anchor="end"');
    });
    find(".bars").innerHTML = bars + text(8, 24 + steps * h + 15, "samples 1 to " + n + "; orange: below zero");
    const diagonal = value(e[3]), off = value(e[4]), side = 171 / n;
    const full = 1.15 * Math.max(...all.map(x => value(x[3])), 1e-9);
    let matrix = text(8, 15, "covariance of the weights");
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++)
      matrix += cell(8 + j * side, 24 + i * side, side, side, ink(i === j ? diagonal : off, full));
    find(".matrix").innerHTML = matrix + text(8, 24 + 171 + 15, "diagonal " + minus(e[3]) + ", off " + minus(e[4]));
    const words = `${data.names[k]}, n = ${n}, b = ${b}, B = ${Math.min(n, Math.max(b, data.B, 2))}: ` +
      `every weight has mean 1/${n}, diagonal ${minus(e[3])}, off the diagonal ${minus(e[4])}, ` +
      `variance of the sum of the weights ${minus(e[5])}. Shared with the covariance of SGD: ${data.agreements[e[7]]}.`;
    find(".words").textContent = words;
    find(".bars").setAttribute("aria-label", "Weights of " + steps + " steps. " + words);
    find(".matrix").setAttribute("aria-label", "Covariance matrix of the weights. " + words);
    root.querySelectorAll("tbody tr").forEach((row, c) => {
      row.className = c === k ? "chosen" : "";
      [3, 4, 5].forEach((x, j) => { row.children[j + 1].textContent = minus(all[c][x]); });
      row.children[4].textContent = data.agreements[all[c][7]];
    });
  }
  form.addEventListener("input", draw);
  f.again.addEventListener("click", () => { seed += 1; draw(); });
  root.dataset.live = "yes";
  form.hidden = false;
  find(".pictures").hidden = false;
  draw();
})();
</script>
</div>
"""
