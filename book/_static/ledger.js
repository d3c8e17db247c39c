// A filter over the ledger's claims: by verdict, by paper, by text. Without it the page is the full list.
document.addEventListener("DOMContentLoaded", () => {
  const claims = [...document.querySelectorAll(".ledger-claim")];
  const summary = document.querySelector(".ledger-summary");
  if (!claims.length || !summary) return;

  const kind = (claim, prefix) => [...claim.classList].find((name) => name.startsWith(prefix));
  const papers = [...document.querySelectorAll("section.ledger-paper")];
  const texts = new Map(claims.map((claim) => [claim, claim.textContent.toLowerCase()]));

  const choice = (label, first, options) => {
    const select = document.createElement("select");
    select.setAttribute("aria-label", label);
    for (const [value, text] of [["", first], ...options]) select.add(new Option(text, value));
    return select;
  };
  const verdicts = [...new Set(claims.map((claim) => kind(claim, "verdict-")))];
  const byVerdict = choice("verdict", "every verdict", verdicts.map((name) => [name, name.slice(8).replaceAll("-", " ")]));
  const byPaper = choice("paper", "every paper", papers.map((section) => [
    section.id.replace("ledger-", "paper-"),
    section.querySelector("h2, h3").firstChild.textContent.trim(),
  ]));
  const byText = Object.assign(document.createElement("input"), { type: "search", placeholder: "words or an id" });
  byText.setAttribute("aria-label", "text");
  const shown = document.createElement("output");
  const bar = document.createElement("form");
  bar.className = "ledger-filter";
  bar.addEventListener("submit", (event) => event.preventDefault());
  bar.append(byVerdict, byPaper, byText, shown);
  summary.closest(".ledger-table").after(bar);

  const apply = () => {
    const words = byText.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const claim of claims) {
      const visible =
        (!byVerdict.value || claim.classList.contains(byVerdict.value)) &&
        (!byPaper.value || claim.classList.contains(byPaper.value)) &&
        words.every((word) => texts.get(claim).includes(word));
      claim.hidden = !visible;
      count += visible;
    }
    for (const section of papers) section.hidden = ![...section.querySelectorAll(".ledger-claim")].some((claim) => !claim.hidden);
    shown.textContent = `${count} of ${claims.length} claims`;
  };
  for (const control of [byVerdict, byPaper]) control.addEventListener("change", apply);
  byText.addEventListener("input", apply);
  apply();

  // a link to a claim must find it, whatever the filter says
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.closest("[hidden]")) {
      byVerdict.value = byPaper.value = byText.value = "";
      apply();
      target.scrollIntoView();
    }
  });
});
