/* The table, with DataTables: sorting, filters, the choice of columns, copy and download of what is shown. */
const SCORE_COLUMNS = !SCORED ? [] : [
  { name: "score", title: () => "score", unit: "%", tip: () => `${scoreOf().metric} on ${scoreOf().task}; in brackets the 95 % interval for ${scoreOf().scope}; n: finished seeds where other cells have more`, raw: (cell) => scoreOf().mean[cell], ends: (cell) => ["mean", "low", "high"].map((end) => scoreOf()[end][cell]), text: (cell) => scoreText(scoreOf(), cell) + fewer(CELLS, cell) },
  { name: "within", title: () => `within ${tolerated()} of best`, unit: "%", tip: () => `probability that the cell lies within the tolerated loss of the best cell, for new seeds and new examples${interpolated(scoreOf()) && `; ${interpolated(scoreOf())}`}`, raw: (cell) => within[cell], text: (cell) => chance(within[cell]) },
];
const SPREADS = !SCORED ? [] : DATA.scores.flatMap((score, i) => [
  { name: `score_${i}`, title: score.task, group: "Score", definition: `${score.metric} on ${score.task}, mean over seeds`, values: score.mean, kind: "percent", unit: "%" },
  { name: `score_${i}_sd`, title: `${score.task}, SD over seeds`, group: "Score", definition: "standard deviation over the seeds that ended ok", values: score.sd, kind: "percent", unit: "%" },
]);
const CHOICES = [...SPREADS.map((c) => ({ ...c, size: 1, head: `${c.title} (%)` })), ...DATA.columns];
const FIELDS = [
  { name: "cell", title: () => "cell", unit: "", tip: () => "click to open its trials", raw: rowName, text: rowName, words: true },
  ...SCORE_COLUMNS,
  ...CHOICES.map((c) => ({ name: c.name, title: () => c.title, unit: c.unit, tip: () => c.definition, raw: (cell) => (cell < COUNT ? c.values[cell] : NOT_RUN[c.name]?.[cell - COUNT]), text: (cell) => (cell < COUNT ? show(c, cell) : String(NOT_RUN[c.name]?.[cell - COUNT] ?? MISSING)), words: c.kind === "text", group: c.group, optional: true })),
];
for (const field of FIELDS) field.head = () => (field.unit ? `${field.title()} (${field.unit})` : field.title());
const FIELD_AT = new Map(FIELDS.map((field, place) => [field.name, place]));
let table = null;
const chosen = () => new Set(state.columns.split(",").filter(Boolean));
const filters = () => {
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = ["method", "rank", "precision", "base"].filter((name) => state[name] !== "");
  return (cell) => (!brushed || brushed.has(cell)) && wanted.every((name) => String(FILTERS[name][cell] ?? "none") === state[name])
    && words.every((word) => rowName(cell).toLowerCase().includes(word));
};
const filterTable = () => {
  if (!table) return;
  const passes = filters();
  table.search.fixed("page", (_, row) => passes(row.cell)).draw();
};
const shownRows = () => table.rows({ search: "applied", order: "applied" }).data().toArray().map((row) => row.cell);
/* The cells among them, without those that have not run. */
const allShown = () => shownRows().filter((cell) => cell < COUNT);
const render = (field) => (_, type, row) => {
  if (type === "sort" || type === "type") return row.cell < COUNT ? bySort(field, row.cell) : field.words ? `${LAST}${LAST}${field.text(row.cell)}` : null;
  if (type !== "display") return field.text(row.cell);
  const text = escaped(field.text(row.cell));
  if (field.name === "cell") {
    const named = row.cell < COUNT ? `<button type="button" class="link" data-cell="${row.cell}">${text}</button>` : text;
    return `${named}${rowTrouble(row.cell) ? ` <small class="trouble">${escaped(rowTrouble(row.cell))}</small>` : ""}`;
  }
  return field.name === "score" ? scoreHtml(text) : text;
};
const heading = (field) => `<span data-tip="${escaped(field.tip())}">${escaped(field.title())}${field.unit ? ` <small>${escaped(field.unit)}</small>` : ""}</span>`;
/* Unknown values come last in both directions, and after them cells that have not run. */
const LAST = "\uffff";
const lateness = (word) => (word.startsWith(LAST + LAST) ? 2 : word.startsWith(LAST) ? 1 : 0);
const lastWords = (sign) => (a, b) => lateness(a) - lateness(b) || (a < b ? -sign : a > b ? sign : 0);
DataTable.type("words", { order: { asc: lastWords(1), desc: lastWords(-1) } });
const lastNull = (sign) => (a, b) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : sign * (a - b));
DataTable.type("measured", { order: { asc: lastNull(1), desc: lastNull(-1) }, className: "num" });
const bySort = (field, row) => {
  const value = field.raw(row);
  return value === null || value === undefined ? (field.words ? LAST : null) : field.words ? String(value).toLowerCase() : value;
};
const asColumn = (field, visible, show) => ({
  data: null, name: field.name, title: heading(field), render: show, type: field.words ? "words" : "measured", visible, searchable: false,
  className: field.name === "score" ? "num score" : field.words ? "words" : "num", orderSequence: field.words || field.optional ? ["asc", "desc"] : ["desc", "asc"],
  createdCell: (td) => { td.dataset.label = field.head(); },
});
const LANGUAGE = { info: "_TOTAL_ cells", infoFiltered: "of _MAX_", infoEmpty: "no cell", zeroRecords: "No cell passes the filters.", emptyTable: "No cell.", lengthMenu: "_MENU_ a page" };

const makeTable = () => {
  const visible = chosen();
  const [sorted, direction] = state.sort.split(",");
  table = new DataTable("#table", {
    data: [...PLACES, ...NOT_RUN.name.map((_, place) => COUNT + place)].map((cell) => ({ cell })),
    columns: FIELDS.map((field) => asColumn(field, !field.optional || visible.has(field.name), render(field))),
    order: FIELD_AT.has(sorted) ? [[FIELD_AT.get(sorted), direction === "asc" ? "asc" : "desc"]] : [],
    pageLength: 20, lengthMenu: [20, 50, 100, { label: "all", value: -1 }], deferRender: true, autoWidth: false,
    createdRow: (row, { cell }) => row.classList.toggle("not-run", cell >= COUNT),
    layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: COUNT + NOT_RUN.name.length > 20 ? ["pageLength", "paging"] : null },
    language: LANGUAGE,
  });
  table.on("draw", () => {
    const cells = shownRows();
    shownCells = cells.length === COUNT + NOT_RUN.name.length ? null : new Set(cells);
    fadePlot();
    byId("table").dispatchEvent(new CustomEvent("shown"));
  });
  table.on("order", () => {
    const [first] = table.order();
    if (first) choose({ sort: `${FIELDS[first[0] ?? 1].name},${first[1]}` });
  });
  byId("table").addEventListener("click", (event) => {
    const row = event.target instanceof Element && event.target.closest("tbody tr");
    const data = row && table.row(row).data();
    if (data?.cell < COUNT && !getSelection().toString()) openCell(data.cell);
  });
};
const invalidate = () => {
  table.rows().invalidate();
  for (const { name } of SCORE_COLUMNS) { const place = FIELD_AT.get(name); table.column(place).header().querySelector("[data-tip]").outerHTML = heading(FIELDS[place]); }
  table.draw();
};
const bindFilters = () => {
  const search = byId("search");
  search.value = state.search;
  search.addEventListener("input", () => choose({ search: search.value }));
  for (const [name, values] of Object.entries(FILTERS)) {
    const select = byId(`filter-${name}`);
    const all = [...new Set(values)].map((value) => value ?? "none").sort((a, b) => a - b || 0);
    select.append(element("option", { value: "" }, "all"), ...all.map((value) => element("option", { value: String(value) }, String(value))));
    select.closest("label").hidden = all.length < 2;
    select.value = state[name];
    select.addEventListener("change", () => choose({ [name]: select.value }));
    onChoice([name], () => { select.value = state[name]; });
  }
  onChoice(["search", "method", "rank", "precision", "base"], () => { if (search.value !== state.search) search.value = state.search; filterTable(); });
};
/* A menu closes when something else is clicked, or by Escape. */
const bindMenus = () => {
  const menus = [...document.querySelectorAll(".menu")];
  document.addEventListener("click", (event) => { for (const menu of menus) if (menu.open && !menu.contains(event.target)) menu.open = false; });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") for (const menu of menus) menu.open = false; });
};
const bindChooser = () => {
  const menu = byId("columns");
  menu.addEventListener("toggle", () => {
    if (!menu.open || menu.querySelector("fieldset")) return;
    const groups = Map.groupBy ? Map.groupBy(CHOICES, (c) => c.group) : new Map([...new Set(CHOICES.map((c) => c.group))].map((g) => [g, CHOICES.filter((c) => c.group === g)]));
    const visible = chosen();
    for (const [group, columns] of groups) {
      menu.querySelector("div").append(element("fieldset", {}, element("legend", {}, group), ...columns.map((c) => element("label", { "data-tip": c.definition },
        element("input", { type: "checkbox", value: c.name, checked: visible.has(c.name) }), ` ${c.title}`))));
    }
  });
  menu.addEventListener("change", () => {
    const boxes = [...menu.querySelectorAll("input")];
    choose({ columns: boxes.filter((box) => box.checked).map((box) => box.value).join(",") });
  });
  onChoice(["columns"], () => {
    const visible = chosen();
    for (const field of FIELDS) if (field.optional) table.column(FIELD_AT.get(field.name)).visible(visible.has(field.name), false);
    for (const box of menu.querySelectorAll("input")) box.checked = visible.has(box.value);
  });
};

/* What is shown, as text: fields with heading, raw value and text of a row, and the rows. */
const shownFields = () => FIELDS.filter((field, place) => table.column(place).visible());
const exported = {
  csv: (fields, rows) => {
    /* a text that a spreadsheet would take for a formula has an apostrophe before it, as in `report --format csv` */
    const inert = (value) => (/^[=+\-@\t\r]/.test(value) && !/^[-+]?[0-9][0-9.,]*([eE][-+]?[0-9]+)?%?$/.test(value) ? `'${value}` : value);
    const quote = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const heads = fields.flatMap((field) => (field.ends ? ["mean", "low", "high"].map((end) => `score_${end}`) : [field.name]));
    const lines = [heads, ...rows.map((row) => fields.flatMap((field) => (field.ends ? field.ends(row) : [field.raw(row)])).map((value) => String(value ?? "")))];
    return `${lines.map((line) => line.map(inert).map(quote).join(",")).join("\n")}\n`;
  },
  md: (fields, rows) => {
    const plain = (text) => text.replace(/[\\|]/g, "\\$&").replace(/[<>\n]/g, (c) => ({ "<": "&lt;", ">": "&gt;" })[c] ?? " ");
    const line = (texts) => `| ${texts.map(plain).join(" | ")} |`;
    return `${[line(fields.map((f) => f.head())), `|${fields.map((f) => (f.words ? " --- |" : " ---: |")).join("")}`, ...rows.map((row) => line(fields.map((f) => f.text(row))))].join("\n")}\n`;
  },
  tex: (fields, rows) => {
    const special = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "×": "$\\times$", "<": "\\textless{}", ">": "\\textgreater{}" };
    const plain = (text) => text.replace(/[\\{}$&#%_~^–×<>\n]/g, (c) => special[c] ?? (c === "\n" ? " " : `\\${c}`));
    const line = (texts) => `${texts.map(plain).join(" & ")} \\\\`;
    return `\\begin{tabular}{${fields.map((f) => (f.words ? "l" : "r")).join("")}}\n\\toprule\n${line(fields.map((f) => f.head()))}\n\\midrule\n${rows.map((row) => line(fields.map((f) => f.text(row)))).join("\n")}\n\\bottomrule\n\\end{tabular}\n`;
  },
};
/* Copy or download by the buttons of a menu what a function says is shown. */
const bindExport = (menu, shown, name) => {
  for (const button of menu.querySelectorAll("[data-export]")) {
    button.addEventListener("click", async () => {
      const format = button.dataset.export;
      const text = exported[format](...shown());
      if (button.dataset.how === "copy") { await copy(text, button); return; }
      const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" })), download: `${name}.${format}` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
};
const copy = async (text, button) => {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); } catch { /* a file has no clipboard everywhere */
    const area = element("textarea", { value: text, class: "aside" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = before; }, 1200);
};
const bindTable = () => {
  makeTable();
  bindFilters();
  bindMenus();
  bindChooser();
  bindExport(byId("compare"), () => [shownFields(), shownRows()], DATA.suite || "peftbench");
  onChoice(["within", "task"], invalidate);
  onChoice(["sort"], () => {
    const [name, direction] = state.sort.split(",");
    const [first] = table.order();
    if (FIELD_AT.has(name) && (!first || first[0] !== FIELD_AT.get(name) || first[1] !== direction)) table.order([[FIELD_AT.get(name), direction]]).draw();
  });
  let length = table.page.len();
  addEventListener("beforeprint", () => { length = table.page.len(); table.page.len(-1).draw(); });
  addEventListener("afterprint", () => table.page.len(length).draw());
  filterTable();
};
