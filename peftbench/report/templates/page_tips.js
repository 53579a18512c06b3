/* Tooltips of headings and of the plot, light and dark, the keys. */
const tip = byId("tip");
const showTip = (children, x, y) => {
  tip.replaceChildren(...children);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(x + 14, innerWidth - box.width - 8);
  const top = y + 16 + box.height > innerHeight ? y - box.height - 12 : y + 16;
  tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
};
const hideTip = () => { tip.hidden = true; };
const bindTips = () => {
  const at = (event) => event.target instanceof Element && event.target.closest("[data-tip]");
  const over = (event) => {
    const found = at(event);
    if (!found) return;
    const box = found.getBoundingClientRect();
    showTip([found.dataset.tip], box.left, box.bottom - 8);
  };
  const out = (event) => { if (at(event)) hideTip(); };
  document.addEventListener("mouseover", over);
  document.addEventListener("mouseout", out);
  document.addEventListener("focusin", over);
  document.addEventListener("focusout", out);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  addEventListener("scroll", hideTip, { passive: true });
};

const system = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const isDark = () => {
  if (printing) return false;
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
};
const themed = [];
const redraw = () => { for (const draw of themed) draw(); };
const bindTheme = () => {
  const root = document.documentElement;
  const button = byId("theme");
  const name = () => { button.textContent = isDark() ? "light" : "dark"; };
  try { const kept = localStorage.getItem("peftbench-theme"); if (kept) root.dataset.theme = kept; } catch { /* a page without storage */ }
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("peftbench-theme", root.dataset.theme); } catch { /* a page without storage */ }
    name();
    redraw();
  });
  system.addEventListener("change", () => { name(); redraw(); });
  addEventListener("beforeprint", () => { printing = true; redraw(); });
  addEventListener("afterprint", () => { printing = false; redraw(); });
  name();
};
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const styleOf = (cell) => {
  const style = DATA.styles[CELLS.kind[cell]];
  return { color: isDark() ? style.dark : style.light, shape: style.shape };
};
/* How full a marker is: by the bits that a weight of the base takes in memory. */
const FILLS = [[1, "24 or more"], [0.4, "12 to 24"], [0, "fewer than 12"]];
const fullness = (cell) => {
  const bits = CELLS.bits[cell];
  if (bits === null || bits >= 24) return 1;
  return bits >= 12 ? 0.4 : 0;
};
/* A colour laid over the paper, opaque. */
const laid = (color, full) => {
  const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  const [over, under] = [rgb(color), rgb(ink("--paper"))];
  return `rgb(${over.map((value, i) => Math.round(full * value + (1 - full) * under[i])).join(",")})`;
};
