"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { theme.textContent = isDark() ? "light" : "dark"; };
  try { const kept = localStorage.getItem("peftbench-theme"); if (kept) root.dataset.theme = kept; } catch { /* a page without storage */ }
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("peftbench-theme", root.dataset.theme); } catch { /* a page without storage */ }
    name();
  });
  system.addEventListener("change", name);
  theme.setAttribute("aria-label", "switch between light and dark");
  theme.hidden = false;
  name();

  const table = document.getElementById("compare");
  if (!table) return; // the comparison could not be made
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const cells = [...body.rows].filter((row) => row.className === "cell");
  const references = [...body.rows].filter((row) => row.className !== "cell");
  const value = (row, i) => row.cells[i].dataset.sort;
  const compare = (a, b, numeric) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
  heads.forEach((head, i) => {
    head.firstElementChild.addEventListener("click", () => {
      const numeric = head.classList.contains("num");
      const now = head.getAttribute("aria-sort");
      const first = numeric ? "descending" : "ascending";
      const order = now === null ? first : now === "descending" ? "ascending" : "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const known = cells.filter((row) => value(row, i) !== "");
      const unknown = cells.filter((row) => value(row, i) === "");
      known.sort((a, b) => sign * compare(value(a, i), value(b, i), numeric));
      body.append(...known, ...unknown, ...references);
    });
  });

  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    for (const row of cells) {
      const text = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      n += row.hidden ? 0 : 1;
    }
    shown.textContent = words.length ? `${n} of ${cells.length} cells` : "";
  };
  filter.addEventListener("input", apply);
})();
