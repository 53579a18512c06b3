/* The plots, with Vega-Lite on canvas; expressions are interpreted, so that the page needs no eval. */
const theme = () => {
  const [text, quiet, rule] = [ink("--ink"), ink("--quiet"), ink("--rule")];
  const axis = { labelColor: text, titleColor: text, gridColor: rule, domainColor: quiet, tickColor: quiet, labelFontSize: 13, titleFontSize: 13, titleFontWeight: "normal", gridOpacity: 0.6 };
  return {
    background: "transparent", font: "system-ui, sans-serif", view: { stroke: rule }, axis,
    legend: { labelColor: text, titleColor: text, labelFontSize: 13, titleFontSize: 13, titleFontWeight: "normal", symbolSize: 110 },
    header: { labelColor: text, titleColor: text, labelFontSize: 13 }, text: { color: text }, title: { color: text, fontSize: 13 },
  };
};
const plots = new Map();
const plot = (holder, spec) => {
  plots.get(holder)?.finalize();
  holder.replaceChildren();
  const whole = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", autosize: { type: "fit-x", contains: "padding" }, config: theme(), ...spec };
  const compiled = vegaLite.compile(whole, { logger: vega.logger(vega.Error) }).spec;
  const view = new vega.View(vega.parse(compiled, null, { ast: true }), {
    expr: vega.expressionInterpreter, renderer: "canvas", container: holder, hover: true, logLevel: vega.Error,
    tooltip: (_, event, item, value) => {
      if (value === null || value === undefined || value === "") { hideTip(); return; }
      const datum = item?.datum ?? {};
      const lines = datum.cell !== undefined && holder.id === "plot" ? cellLines(datum.cell)
        : typeof value === "object" ? Object.entries(value).map(([name, each]) => `${name}: ${each}`) : String(value).split("\n");
      showTip(lines.map((line, i) => element(i ? "div" : "strong", {}, line)), event.clientX, event.clientY);
    },
  });
  view.run();
  plots.set(holder, view);
  return view;
};

const cellLines = (cell) => {
  const score = scoreOf();
  const names = [...new Set([...DEFAULT_COLUMNS, "trainable_parameters", "checkpoint_bytes", "trials", "timed_trials"])].filter((name) => COLUMNS.has(name) && (name !== "timed_trials" || COLUMNS.get(name).values[cell] !== null));
  return [
    CELLS.name[cell], `score ${scoreText(score, cell)} %`,
    ...(within[cell] === null ? [] : [`within ${tolerated()} points of the best: ${chance(within[cell])} %`]),
    ...names.map((name) => { const c = COLUMNS.get(name); return `${c.title}: ${show(c, cell)}${c.unit && c.values[cell] !== null ? ` ${c.unit}` : ""}`; }),
    "click to open",
  ];
};
const scoreText = (score, cell) => {
  if ((score.mean[cell] ?? null) === null) return MISSING;
  const bounds = score.low[cell] === null ? "" : ` [${percent(score.low[cell])}, ${percent(score.high[cell])}]`;
  return percent(score.mean[cell]) + bounds;
};
/* " (n=2)" for a tuned cell with fewer finished seeds than the others have; else empty. */
const fewer = (cells, cell) => (!cells.is_base[cell] && cells.ok[cell] > 0 && cells.ok[cell] < Math.max(...cells.ok) ? ` (n=${cells.ok[cell]})` : "");
/* A score as HTML: its interval, and the number of seeds, which floats before it so that scores stay in line. */
const scoreHtml = (text) => {
  const [, mean, ends, n] = text.match(/^(.*?)(?: (\[.*?\]))?(?: (\(n=\d+\)))?$/);
  return `${mean}${ends ? ` <small>${ends}</small>` : ""}${n ? ` <small class="few">${n}</small>` : ""}`;
};
/* Cells that no other one beats in score at no higher cost, from the cheapest on. */
const frontOf = (rows) => {
  let highest = -Infinity;
  return [...rows].sort((a, b) => a.x - b.x || b.y - a.y).filter((row) => row.y > highest && ((highest = row.y), true));
};
const plotRows = () => {
  const score = scoreOf();
  const cost = COLUMNS.get(state.cost);
  const rows = PLACES.filter((cell) => !CELLS.is_base[cell] && score.mean[cell] !== null && cost && cost.values[cell] !== null).map((cell) => ({
    cell, name: CELLS.name[cell], x: cost.values[cell] / cost.size, y: 100 * score.mean[cell],
    low: 100 * (score.low[cell] ?? score.mean[cell]), high: 100 * (score.high[cell] ?? score.mean[cell]),
    ...styleOf(cell), fill: laid(styleOf(cell).color, fullness(cell)), shown: shownCells === null || shownCells.has(cell),
  }));
  return rows;
};
const BASES = PLACES.filter((c) => CELLS.is_base[c]);
const LINES = [...BASES.map((c) => [BASES.length > 1 ? `untuned: ${CELLS.name[c]}` : "untuned base", (s) => s.mean[c]]), ["majority answer", (s) => s.majority], ["chance", (s) => s.chance]];
/* Horizontal lines; of some too near for two names, the upper one has both. */
const readable = (lines, rows) => {
  const down = [...lines].sort((one, other) => other.y - one.y);
  const every = [...rows.flatMap((row) => [row.low, row.high]), ...down.map((line) => line.y)];
  const least = (Math.max(...every) - Math.min(...every)) / 20;
  let above = null;
  return down.map(({ name, y }) => {
    if (above && above.y - y <= least) { above.name += `, ${name}`; return { name: "", y }; }
    above = { name, y };
    return above;
  });
};
/* Where the name of a cell on the front may stand: where it covers no other name, mark or interval, if it can not the line either; else nowhere. */
const PLACEMENTS = [
  { align: "left", dx: 10, dy: 12 }, { align: "left", dx: 10, dy: -12 }, { align: "right", dx: -10, dy: -12 }, { align: "right", dx: -10, dy: 12 },
  { align: "left", dx: 10, dy: 27 }, { align: "right", dx: -10, dy: -27 }, { align: "left", dx: 10, dy: -27 }, { align: "right", dx: -10, dy: 27 },
];
const crosses = (one, other) => one[0] < other[2] && one[2] > other[0] && one[1] < other[3] && one[3] > other[1];
const placed = (view, rows) => {
  const [x, y, width, height] = [view.scale("x"), view.scale("y"), view.width(), view.height()];
  const around = (left, top, right, bottom, by) => [Math.min(left, right) - by, Math.min(top, bottom) - by, Math.max(left, right) + by, Math.max(top, bottom) + by];
  const taken = rows.map((row) => around(x(row.x), y(row.y), x(row.x), y(row.y), 7));
  const front = frontOf(rows);
  const steps = front.slice(1).flatMap((row, i) => [around(x(front[i].x), y(front[i].y), x(row.x), y(front[i].y), 1), around(x(row.x), y(front[i].y), x(row.x), y(row.y), 1)]);
  const intervals = rows.map((row) => around(x(row.x), y(row.low), x(row.x), y(row.high), 2));
  const found = new Map();
  for (const row of front) {
    const long = 6.6 * row.name.length;
    const boxes = PLACEMENTS.map(({ align, dx, dy }) => { const left = x(row.x) + dx - (align === "left" ? 0 : long); return [left, y(row.y) + dy - 8, left + long, y(row.y) + dy + 8]; });
    const free = (box) => box[0] >= 0 && box[2] <= width && box[1] >= 0 && box[3] <= height && ![...taken, ...intervals].some((other) => crosses(box, other));
    const clear = boxes.findIndex((box) => free(box) && !steps.some((other) => crosses(box, other)));
    const place = clear >= 0 ? clear : boxes.findIndex(free);
    if (place < 0) continue;
    taken.push(boxes[place]);
    found.set(row.cell, place);
  }
  return found;
};
/* Write the names of the cells on the front, once it is known where everything else is. */
const nameFront = (view, rows) => view.runAsync().then(() => {
  const named = placed(view, rows);
  PLACEMENTS.forEach((_, place) => view.change(`names-${place}`, vega.changeset().remove(vega.truthy).insert(frontOf(rows).filter((row) => named.get(row.cell) === place))));
  return view.runAsync();
});
/* Marks with intervals, their front with names, horizontal lines and a budget. Rows have x, y, low, high, color, fill, shape, shown, name and a number of their own as cell. */
const chartSpec = ({ rows, cost, lines, budget, yTitle, high, brush, tooltip = "name" }) => {
  const xs = rows.map((row) => row.x);
  const log = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 20;
  const front = frontOf(rows);
  const title = cost.name === "trainable_parameters" ? cost.title : cost.head;
  const xAxis = { title, format: log || cost.name === "trainable_parameters" ? "~s" : ",~r", tickCount: 8, labelOverlap: true, grid: true };
  const x = { field: "x", type: "quantitative", scale: log ? { type: "log", nice: false, padding: 24 } : { zero: false, padding: 24 }, axis: xAxis };
  const y = { field: "y", type: "quantitative", scale: { zero: false, padding: 8 }, axis: { title: yTitle, tickCount: 6 } };
  const raw = { color: { field: "color", type: "nominal", scale: null }, opacity: { condition: { test: "datum.shown", value: 1 }, value: 0.15 } };
  return {
    width: "container", height: high,
    layer: [
      { data: { values: lines }, mark: { type: "rule", strokeDash: [2, 4], color: ink("--quiet") }, encoding: { y } },
      { data: { values: lines }, mark: { type: "text", align: "right", dx: -4, dy: -6, fontSize: 12, color: ink("--quiet"), x: "width" }, encoding: { y, text: { field: "name" } } },
      { data: { values: budget }, mark: { type: "rule", strokeDash: [6, 4], strokeWidth: 1.5, color: ink("--bad") }, encoding: { x } },
      { data: { values: budget }, mark: { type: "text", align: "left", dx: 5, y: 10, fontSize: 12, color: ink("--bad") }, encoding: { x, text: { field: "name" } } },
      { data: { values: front }, mark: { type: "line", interpolate: "step-after", strokeWidth: 1.5, color: ink("--quiet") }, encoding: { x, y, order: { field: "x" } } },
      { data: { name: "cells" }, mark: { type: "rule", strokeWidth: 1.5 }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, ...raw } },
      {
        data: { name: "cells" }, ...(brush ? { params: [{ name: "brush", select: { type: "interval", mark: { stroke: ink("--accent"), fill: ink("--accent"), fillOpacity: 0.08, strokeOpacity: 0.8 } } }] } : {}),
        mark: { type: "point", size: 110, strokeWidth: 1.8, cursor: "pointer" },
        encoding: {
          x, y, ...raw, shape: { field: "shape", type: "nominal", scale: null }, fill: { field: "fill", type: "nominal", scale: null }, tooltip: { field: tooltip },
        },
      },
      ...PLACEMENTS.map((place, i) => ({ data: { name: `names-${i}` }, mark: { type: "text", align: place.align, baseline: "middle", dx: place.dx, dy: place.dy, fontSize: 12 }, encoding: { x, y, text: { field: "name" } } })),
    ],
    datasets: { cells: rows, ...Object.fromEntries(PLACEMENTS.map((_, i) => [`names-${i}`, []])) },
  };
};
const plotSpec = (rows) => {
  const score = scoreOf();
  const cost = COLUMNS.get(state.cost);
  const lines = readable(LINES.map(([name, of]) => ({ name, y: of(score) })).filter((line) => line.y !== null && line.y !== undefined).map((line) => ({ ...line, y: 100 * line.y })), rows);
  const reserve = DATA.costs?.reserve ?? null; /* null if that of some cell is not known: no line then */
  const memory = reserve === null ? null : memoryOf(state.budget);
  const most = state.cost === "peak_train_bytes" ? memory && Math.max(0, memory - reserve) : state.cost === "train_seconds" ? timeOf(state.time) : null;
  const budget = most ? [{ x: most / cost.size, name: reserve && state.cost === "peak_train_bytes" ? "budget less a GPU's reserve" : "budget" }] : [];
  return chartSpec({ rows, cost, lines, budget, yTitle: `score on ${score.task} (%)`, high: 330, brush: true });
};

let shownCells = null; /* cells of the table's rows that pass its filters; null for all */
let brushed = null;
const drawPlot = () => {
  const rows = plotRows();
  byId("plot-empty").hidden = rows.length > 0;
  brushed = null;
  if (!rows.length) { byId("plot").replaceChildren(); return; }
  const view = plot(byId("plot"), plotSpec(rows));
  nameFront(view, rows);
  const clear = byId("clear-brush");
  clear.hidden = true;
  view.addSignalListener("brush", (_, value) => {
    const range = value.x && value.y ? value : null;
    const inside = (v, [a, b]) => v >= Math.min(a, b) && v <= Math.max(a, b);
    brushed = range && new Set(rows.filter((row) => inside(row.x, range.x) && inside(row.y, range.y)).map((row) => row.cell));
    clear.hidden = !brushed;
    filterTable();
  });
  view.addEventListener("click", (_, item) => { if (item?.datum?.cell !== undefined && item.mark.marktype === "symbol") openCell(item.datum.cell); });
};
const fadePlot = () => {
  const view = plots.get(byId("plot"));
  if (view && byId("plot").isConnected) view.change("cells", vega.changeset().remove(vega.truthy).insert(plotRows())).runAsync();
};
const legendMark = (shape, color, full) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-8 -8 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", outline(shape));
  path.setAttribute("style", `stroke:${color};fill:${color};fill-opacity:${full}`);
  svg.append(path);
  return svg;
};
const drawLegend = () => {
  const kinds = new Map(PLACES.filter((cell) => !CELLS.is_base[cell]).map((cell) => [CELLS.kind[cell], cell]));
  const items = [...kinds].map(([kind, cell]) => {
    const style = styleOf(cell);
    return element("li", {}, legendMark(style.shape, style.color, 1), CELLS.title[cell]);
  });
  const fills = FILLS.filter(([full]) => PLACES.some((cell) => !CELLS.is_base[cell] && fullness(cell) === full));
  if (fills.length > 1) {
    items.push(element("li", { class: "quiet" }, "bits per weight of the base: ", ...fills.flatMap(([full, text]) => [legendMark("circle", ink("--quiet"), full), `${text}  `])));
  }
  byId("legend").replaceChildren(...items);
};
/* A symbol of Vega's as a path, for the legend. */
const OUTLINES = {
  square: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]], diamond: [[0, -1.2], [1, 0], [0, 1.2], [-1, 0]],
  "triangle-up": [[0, -1], [1.1, 0.9], [-1.1, 0.9]], "triangle-down": [[0, 1], [1.1, -0.9], [-1.1, -0.9]],
  "triangle-right": [[1, 0], [-0.9, 1.1], [-0.9, -1.1]], "triangle-left": [[-1, 0], [0.9, 1.1], [0.9, -1.1]],
  cross: [[-0.4, -1], [0.4, -1], [0.4, -0.4], [1, -0.4], [1, 0.4], [0.4, 0.4], [0.4, 1], [-0.4, 1], [-0.4, 0.4], [-1, 0.4], [-1, -0.4], [-0.4, -0.4]],
};
const outline = (shape) => {
  const points = OUTLINES[shape] ?? (shape.startsWith("M") ? shape.slice(1, -1).split("L").map((pair) => pair.split(",").map(Number)) : null);
  if (points) return `M${points.map(([x, y]) => `${5.2 * x},${5.2 * y}`).join("L")}Z`;
  return "M5.2,0A5.2,5.2,0,1,1,-5.2,0A5.2,5.2,0,1,1,5.2,0Z";
};
const bindPlot = () => {
  byId("plot").closest("section").hidden = !SCORED;
  const cost = byId("cost");
  COSTS.forEach(([name, title]) => cost.append(element("option", { value: name }, title)));
  cost.value = state.cost;
  cost.addEventListener("change", () => choose({ cost: cost.value }));
  byId("clear-brush").addEventListener("click", () => { drawPlot(); filterTable(); });
  onChoice(["cost", "task", "budget", "time"], () => { cost.value = state.cost; drawPlot(); filterTable(); });
  themed.push(drawPlot, drawLegend);
  drawLegend();
  drawPlot();
};
