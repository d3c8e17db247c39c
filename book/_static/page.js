// What scrolls sideways inside itself can be reached by keyboard, and shows where it goes on.
document.addEventListener("DOMContentLoaded", () => {
  const wide = ".ledger-table, .claim-numbers, .pst-scrollable-table-container, .cell_input pre, div.math, mjx-container[display], mjx-container.long";
  const goesOn = (box) => box.classList.toggle("goes-on", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  const look = () => {
    // a formula in a line that is longer than the line
    for (const formula of document.querySelectorAll(".bd-article mjx-container:not([display])"))
      if (formula.parentElement.clientWidth && formula.scrollWidth > formula.parentElement.clientWidth) formula.classList.add("long");
    for (const box of document.querySelectorAll(`.bd-article :is(${wide})`)) {
      if (box.scrollWidth <= box.clientWidth + 1 || box.tabIndex === 0) continue;
      box.tabIndex = 0;
      box.addEventListener("scroll", () => goesOn(box), { passive: true });
      goesOn(box);
    }
  };
  const math = window.MathJax?.startup?.promise;
  (math ?? Promise.resolve()).then(look);
  window.addEventListener("resize", look);
  // a folded cell has a width only once it is open
  document.addEventListener("toggle", look, { capture: true });
});
