/* The status strip, warnings and failures, then everything else. */
const drawStatus = () => {
  byId("status").replaceChildren(...DATA.status.map(({ title, text, level }) => element("li", { class: level }, element("b", {}, title), " ", text)));
  byId("lead").textContent = DATA.lead;
  byId("command").textContent = DATA.command;
};
const drawTroubles = () => {
  const section = byId("warnings");
  const { warnings, troubles } = DATA;
  if (!warnings.length && !troubles.length) { section.append(element("p", { class: "quiet" }, "None: every trial ended ok, and nothing limits the comparison.")); return; }
  const most = 4;
  const items = warnings.map((text) => element("li", {}, text));
  if (items.length) section.append(element("ul", {}, ...items.slice(0, most)));
  if (items.length > most) section.append(element("details", {}, element("summary", {}, `${items.length - most} more`), element("ul", {}, ...items.slice(most))));
  const rows = troubles.map((one) => [CELLS.name[one.cell], one.status, one.seeds, one.phase, asText(one.message)]);
  const heads = ["cell", "status", "seeds", "phase", "message"];
  if (!rows.length) return;
  if (rows.length <= 3) section.append(plainTable(heads, rows, "failed and unsupported cells"));
  else section.append(folded(`${rows.length} failures and unsupported cells`, (into) => into.append(plainTable(heads, rows, "failed and unsupported cells"))));
};
/* On paper nothing can be opened: all warnings and failures are there. */
const bindPrint = () => {
  const closed = [];
  addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("#warnings details:not([open])")) { closed.push(details); details.open = true; } });
  addEventListener("afterprint", () => { for (const details of closed.splice(0)) details.open = false; });
};
/* What fails is said, and everything else is there. */
const started = (what, start) => {
  try { start(); } catch (error) {
    byId("warnings").append(element("p", { class: "trouble" }, `Not shown: ${what} (${error.message}). This is a mistake in peftbench.`));
    console.error(error);
  }
};
/* The address has the choices, so a link to a place of the page must not be in it. */
const bindSkip = () => document.querySelector("a.skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("compare").tabIndex = -1;
  byId("compare").focus();
});
readAddress();
bindSkip();
bindTips();
bindTheme();
for (const [what, start] of [["the results folders", bindFolders], ["the status", drawStatus], ["failures and warnings", drawTroubles], ["the answer", bindAnswer],
  ["the table", bindTable], ["the plot", bindPlot], ["the cells of all folders", bindEvery], ["trials", bindTrial], ["the sections", bindSections], ["printing", bindPrint]]) started(what, start);
addEventListener("hashchange", () => {
  const before = { ...state };
  readAddress();
  const changed = new Set(Object.keys(DEFAULTS).filter((name) => state[name] !== before[name]));
  if (changed.has("results")) { location.reload(); return; }
  if (changed.size) for (const listener of listeners) listener(changed);
});
document.documentElement.dataset.ready = "yes";
