// What is wider than its place: a displayed formula shrinks a little, and what still scrolls sideways inside itself can
// be reached by keyboard and shows where it goes on.
document.addEventListener("DOMContentLoaded", () => {
  // the bibliography calls itself a list, whose entries say what they are and are no items of one
  for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
  const wide = ".noise-zoo .scroll, .noise-calculator .scroll, .ledger-table, .claim-numbers, .pst-scrollable-table-container, .cell_input pre, div.math, mjx-container[display], mjx-container.long";
  const known = new WeakSet();
  const all = (what) => document.querySelectorAll(`.bd-article :is(${what})`);
  const fits = (box) => box.scrollWidth <= box.clientWidth + 1;
  const goesOn = (box) => box.classList.toggle("goes-on", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  const shrink = (formula) => {
    if (!formula.clientWidth || fits(formula)) return;
    const size = parseFloat(getComputedStyle(formula).fontSize), by = (0.99 * formula.clientWidth) / formula.scrollWidth;
    if (by > 0.75 && size * by > 11) formula.style.setProperty("font-size", `${size * by}px`, "important");
  };
  const look = () => {
    for (const formula of all("mjx-container[display]")) shrink(formula);
    // a formula in a line that is longer than the line
    for (const formula of all("mjx-container:not([display])")) {
      const line = formula.closest("p, li, td, th, dt, dd, h1, h2, h3, figcaption, summary, div");
      if (!line.clientWidth || formula.scrollWidth <= line.clientWidth) continue;
      formula.classList.add("long");
      shrink(formula);
    }
    for (const box of all(wide)) {
      if (!fits(box) && !known.has(box)) {
        known.add(box);
        box.tabIndex = 0;
        box.addEventListener("scroll", () => goesOn(box), { passive: true });
      }
      goesOn(box);
    }
  };
  (window.MathJax?.startup?.promise ?? Promise.resolve()).then(look);
  window.addEventListener("resize", look);
  // a folded cell has a width only once it is open
  document.addEventListener("toggle", look, { capture: true });
});
