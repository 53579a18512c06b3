/* The cells of all folders: a plot and a table, in which only what compares shares an axis or a part. Nothing is pooled: intervals and probabilities are each folder's own. */
const TOGETHER = FOLDERS?.together;
const EVERY_MAPS = EVERY.map((data) => new Map(data.columns.map((each) => [each.name, each])));
const GROUP_OF = EVERY.map((_, folder) => TOGETHER.groups.findIndex((group) => group.includes(folder)));
const EVERY_ROWS = EVERY.flatMap((data, folder) => data.cells.name.map((name, cell) => ({ folder, cell, name, base: data.cells.base[cell], group: GROUP_OF[folder] })));
const folderName = (folder) => FOLDERS.parts[folder].name;
const inWords = (names) => (names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
/* The score of a folder that is shown: on the chosen task, or if it has none of that name its own first one. */
const scoreIn = (folder) => EVERY[folder].scores.find((score) => score.task === scoreOf().task) ?? EVERY[folder].scores[0];
let everyWithin = [];
const everyInterpolated = () => EVERY.map((_, folder) => interpolated(scoreIn(folder))).find(Boolean) ?? "";
const judgeEvery = () => { everyWithin = EVERY.map((_, folder) => probabilities(scoreIn(folder), Number(state.within))); };
/* Another folder, with what was chosen about all of them. */
const elsewhere = (folder, key = "") => {
  const kept = { results: String(folder), open: key, ...Object.fromEntries(["folder", "find", "order", "over", "within", "columns"].map((name) => [name, state[name]])) };
  location.hash = String(new URLSearchParams(Object.entries(kept).filter(([name, value]) => value !== DEFAULTS[name])));
};
const openIn = ({ folder, cell }) => {
  if (folder === PLACE) { openCell(cell); return; }
  const { key, cell: cells } = EVERY[folder].trials;
  elsewhere(folder, key[cells.indexOf(cell)] ?? "");
};
const differ = (name) => new Set(EVERY_ROWS.map(({ folder, cell }) => EVERY_MAPS[folder].get(name)?.values[cell])).size > 1;

const EVERY_FIELDS = [
  { name: "cell", title: () => "cell", unit: "", tip: () => "click to open its trials", raw: (row) => row.name, text: (row) => row.name, words: true },
  { name: "results", title: () => "results", unit: "", tip: () => "results folder of the cell", raw: (row) => folderName(row.folder), text: (row) => folderName(row.folder), words: true },
  ...["base", "suite", "score", "within"].flatMap((name) => {
    if (name === "score") return [{ name, title: () => "score", unit: "%", tip: () => "of the task that stands above each part; in brackets the 95 % interval from its own folder",
      raw: (row) => scoreIn(row.folder).mean[row.cell], ends: (row) => ["mean", "low", "high"].map((end) => scoreIn(row.folder)[end][row.cell]), text: (row) => scoreText(scoreIn(row.folder), row.cell) + fewer(EVERY[row.folder].cells, row.cell) }];
    if (name === "within") return [{ name, title: () => `within ${tolerated()} of its folder's best`, unit: "%", tip: () => `probability that the cell lies within the tolerated loss of the best cell of its own folder, for new seeds and new examples${everyInterpolated() && `; ${everyInterpolated()}`}`,
      raw: (row) => everyWithin[row.folder][row.cell], text: (row) => chance(everyWithin[row.folder][row.cell]) }];
    return EVERY_COLUMNS.has(name) ? [everyField(EVERY_COLUMNS.get(name))] : [];
  }),
  ...[...EVERY_COLUMNS.values()].filter((each) => !["base", "suite"].includes(each.name)).map((each) => everyField(each)),
];
function everyField(shared) {
  const own = (row) => EVERY_MAPS[row.folder].get(shared.name);
  return { name: shared.name, title: () => shared.title, unit: shared.unit, tip: () => shared.definition, words: shared.kind === "text", optional: true,
    raw: (row) => own(row)?.values[row.cell] ?? null, text: (row) => (own(row) ? show({ ...own(row), size: shared.size }, row.cell) : MISSING) };
}
for (const field of EVERY_FIELDS) field.head = () => (field.unit ? `${field.title()} (${field.unit})` : field.title());
const EVERY_AT = new Map(EVERY_FIELDS.map((field, place) => [field.name, place]));
/* The columns of the table below; of its default ones also those that only another folder has, and what tells folders apart. */
const everyVisible = () => {
  const names = state.columns === DEFAULTS.columns ? DEFAULT_COLUMNS : state.columns.split(",");
  const wanted = new Set([...names, ...["base", "suite"].filter(differ)]);
  return (field) => !field.optional || wanted.has(field.name);
};
const passesEvery = () => {
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  return (row) => (state.folder === "" || String(row.folder) === state.folder)
    && words.every((word) => `${row.name} ${folderName(row.folder)} ${row.base}`.toLowerCase().includes(word));
};
const groupWords = (group) => {
  const folders = TOGETHER.groups[group];
  const score = scoreIn(folders[0]);
  const apart = EVERY_COSTS.map(([name]) => name).filter((name) => TOGETHER.apart[name] && new Set(folders.map((each) => TOGETHER.apart[name][each])).size > 1);
  const costs = apart.map((name) => `${EVERY_COLUMNS.get(name).title}: ${TOGETHER.why[name]}`);
  const own = EVERY[folders[0]].scores.map((each) => each.task).filter((task) => task !== score.task);
  const what = score.metric === "unweighted mean" ? `the mean over ${inWords(own)}` : score.task;
  return { title: `${inWords(folders.map(folderName))}: score on ${what}`, notes: [TOGETHER.reasons[group], costs.length ? `Not the same in all of them: ${costs.join("; ")}.` : ""].filter(Boolean) };
};

/* The plot: a panel for all folders whose scores and whose chosen cost compare. */
const panelsOf = () => TOGETHER.groups.flatMap((folders, group) => {
  const numbers = TOGETHER.apart[state.over] ?? folders.reduce((found, each) => ({ ...found, [each]: 0 }), {});
  return [...new Set(folders.map((each) => numbers[each]))].map((number, place) => ({ group, folders: folders.filter((each) => numbers[each] === number), alone: place > 0 }));
});
const panelRows = (panel, passes) => EVERY_ROWS.map((row, place) => ({ ...row, place })).filter((row) => panel.folders.includes(row.folder) && passes(row)).flatMap(({ folder, cell, name, place }) => {
  const [data, score, own] = [EVERY[folder], scoreIn(folder), EVERY_MAPS[folder].get(state.over)];
  const [x, mean] = [own?.values[cell] ?? null, score.mean[cell]];
  if (data.cells.is_base[cell] || mean === null || x === null) return [];
  const style = TOGETHER.styles[folder];
  const color = isDark() ? style.dark : style.light;
  const texts = EVERY_FIELDS.filter((field) => ["results", "base", "score", "within", ...DEFAULT_COLUMNS].includes(field.name)).map((field) => `${field.title()}: ${field.text(EVERY_ROWS[place])}${field.unit ? ` ${field.unit}` : ""}`);
  return [{ cell: place, name: panel.folders.length > 1 ? `${name} (${folderName(folder)})` : name, lines: [name, ...texts, "click to open"].join("\n"), x: x / EVERY_COLUMNS.get(state.over).size, y: 100 * mean,
    low: 100 * (score.low[cell] ?? mean), high: 100 * (score.high[cell] ?? mean), color, shape: style.shape, fill: laid(color, 0.5), shown: true }];
});
const MOST_LINES = 4;
/* The untuned bases, the majority answer and chance. */
const panelLines = ({ folders }, rows) => {
  const bases = folders.flatMap((folder) => EVERY[folder].cells.name.map((name, cell) => ({ name: folders.length > 1 ? `${name} (${folderName(folder)})` : name, y: scoreIn(folder).mean[cell], base: EVERY[folder].cells.is_base[cell] })).filter((line) => line.base));
  const score = scoreIn(folders[0]);
  const lines = [...(bases.length > MOST_LINES ? [] : bases), { name: "majority answer", y: score.majority }, { name: "chance", y: score.chance }]
    .filter(({ y }) => y !== null && y !== undefined).map(({ name, y }) => ({ name, y: 100 * y }));
  return readable(lines, rows);
};
const drawEvery = () => {
  const into = byId("every-plots");
  for (const holder of into.querySelectorAll(".chart")) { plots.get(holder)?.finalize(); plots.delete(holder); }
  into.replaceChildren();
  const passes = passesEvery();
  const drawn = panelsOf().map((panel) => ({ panel, rows: panelRows(panel, passes) })).filter(({ rows }) => rows.length);
  if (!drawn.length) { into.append(element("p", { class: "quiet" }, "No cell has a score and this cost.")); return; }
  for (const { panel, rows } of drawn) {
    const task = scoreIn(panel.folders[0]).task;
    const names = inWords(panel.folders.map(folderName));
    const holder = element("div", { class: "chart", role: "img", "aria-label": `score of ${names} with its 95 % interval against the chosen cost; the table of all folders has the same numbers` });
    const notes = [groupWords(panel.group).notes.find((text) => text === TOGETHER.reasons[panel.group]), panel.alone ? `Kept separate: ${TOGETHER.why[state.over]}.` : ""].filter(Boolean);
    into.append(element("div", { class: "panel" }, element("h3", {}, names), ...notes.map((text) => element("p", { class: "quiet" }, text)), holder));
    panel.draw = () => {
      const view = plot(holder, chartSpec({ rows, cost: EVERY_COLUMNS.get(state.over), lines: panelLines(panel, rows), budget: [], yTitle: `score on ${task} (%)`, high: 300, brush: false, tooltip: "lines" }));
      nameFront(view, rows);
      view.addEventListener("click", (_, item) => { if (item?.datum?.cell !== undefined && item.mark.marktype === "symbol") openIn(EVERY_ROWS[item.datum.cell]); });
    };
  }
  for (const { panel } of drawn) panel.draw();
};
const drawEveryLegend = () => byId("every-legend").replaceChildren(...TOGETHER.styles.map((style, folder) => element("li", {}, legendMark(style.shape, isDark() ? style.dark : style.light, 0.5), folderName(folder))));

let everyTable = null;
const everyRender = (field) => (_, type, row) => {
  if (type === "sort" || type === "type") return bySort(field, row);
  if (type !== "display") return field.text(row);
  const text = escaped(field.text(row));
  const trouble = EVERY[row.folder].cells.trouble[row.cell];
  if (field.name === "cell") return `<button type="button" class="link">${text}</button>${trouble ? ` <small class="trouble">${escaped(trouble)}</small>` : ""}`;
  return field.name === "score" ? scoreHtml(text) : text;
};
/* Above the first row of each part, what its scores are of and why it is apart. */
const headGroups = () => {
  const body = byId("every-table").querySelector("tbody");
  for (const row of body.querySelectorAll("tr.group")) row.remove();
  if (TOGETHER.groups.length < 2 && !groupWords(0).notes.length) return;
  let before = -1;
  for (const row of [...body.querySelectorAll("tr")]) {
    const group = everyTable.row(row).data()?.group;
    if (group === undefined || group === before) continue;
    before = group;
    const { title, notes } = groupWords(group);
    row.before(element("tr", { class: "group" }, element("th", { colSpan: everyTable.columns(":visible").count(), scope: "rowgroup" }, title, ...notes.map((text) => element("small", {}, text)))));
  }
};
const filterEvery = () => { const passes = passesEvery(); everyTable.search.fixed("page", (_, row) => passes(row)).draw(); };
const makeEvery = () => {
  const visible = everyVisible();
  const [sorted, direction] = state.order.split(",");
  everyTable = new DataTable("#every-table", {
    data: EVERY_ROWS,
    columns: [...EVERY_FIELDS.map((field) => asColumn(field, visible(field), everyRender(field))), { data: "group", name: "group", title: "part", visible: false, searchable: false, type: "num" }],
    order: [[EVERY_AT.get(sorted), direction]], orderFixed: { pre: [EVERY_FIELDS.length, "asc"] },
    pageLength: 10, lengthMenu: [10, 20, 50, 100, { label: "all", value: -1 }], deferRender: true, autoWidth: false,
    layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: EVERY_ROWS.length > 10 ? ["pageLength", "paging"] : null }, language: LANGUAGE,
  });
  everyTable.on("draw", headGroups);
  everyTable.on("order", () => {
    const first = everyTable.order().find(([at]) => at < EVERY_FIELDS.length);
    if (first) choose({ order: `${EVERY_FIELDS[first[0]].name},${first[1]}` });
  });
  byId("every-table").addEventListener("click", (event) => {
    const row = event.target instanceof Element && event.target.closest("tbody tr:not(.group)");
    const data = row && everyTable.row(row).data();
    if (data && !getSelection().toString()) openIn(data);
  });
};
const shownEvery = () => [EVERY_FIELDS.filter((_, place) => everyTable.column(place).visible()), everyTable.rows({ search: "applied", order: "applied" }).data().toArray()];
const bindEvery = () => {
  if (!FOLDERS) return;
  byId("shown").textContent = `${folderName(PLACE)} alone`;
  const [over, folder, find] = ["over", "filter-folder", "find"].map(byId);
  for (const [name, title] of EVERY_COSTS) over.append(element("option", { value: name }, title));
  folder.append(element("option", { value: "" }, "all"), ...EVERY.map((_, place) => element("option", { value: String(place) }, folderName(place))));
  const inputs = { over, folder, find };
  const fill = () => { for (const [name, input] of Object.entries(inputs)) if (input.value !== state[name]) input.value = state[name]; };
  for (const [name, input] of Object.entries(inputs)) input.addEventListener(name === "find" ? "input" : "change", () => choose({ [name]: input.value }));
  fill();
  judgeEvery();
  makeEvery();
  bindExport(byId("every"), shownEvery, FOLDERS.parts.map((each) => each.name.replaceAll("/", "-")).join("+"));
  drawEveryLegend();
  themed.push(drawEvery, drawEveryLegend);
  onChoice(["over", "folder", "find"], fill);
  onChoice(["over", "folder", "find", "task", "within"], drawEvery);
  onChoice(["folder", "find"], filterEvery);
  onChoice(["columns"], () => {
    const wanted = everyVisible();
    EVERY_FIELDS.forEach((field, place) => everyTable.column(place).visible(wanted(field), false));
    headGroups();
  });
  onChoice(["order"], () => {
    const [name, direction] = state.order.split(",");
    const first = everyTable.order().find(([at]) => at < EVERY_FIELDS.length);
    if (!first || first[0] !== EVERY_AT.get(name) || first[1] !== direction) everyTable.order([[EVERY_AT.get(name), direction]]).draw();
  });
  let length = 10;
  addEventListener("beforeprint", () => { length = everyTable.page.len(); everyTable.page.len(-1).draw(); });
  addEventListener("afterprint", () => everyTable.page.len(length).draw());
  filterEvery();
  drawEvery();
};
/* Before the plots are drawn again, as their tooltips have the new probabilities. */
if (FOLDERS) onChoice(["within", "task"], () => {
  if (!everyTable) return; /* it could not be made, which the page says */
  judgeEvery();
  everyTable.rows().invalidate();
  everyTable.column(EVERY_AT.get("within")).header().querySelector("[data-tip]").outerHTML = heading(EVERY_FIELDS[EVERY_AT.get("within")]);
  everyTable.draw();
});
