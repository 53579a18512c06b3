/* What is folded, built when it is opened: of the cells that the table shows, best first. */
const MOST_BARS = 40;
const MOST_CURVES = 9;
const shownFirst = (most) => allShown().filter((cell) => CELLS.ok[cell] && !CELLS.is_base[cell]).slice(0, most);
const note = (text) => element("p", { class: "quiet" }, text);
const holderOf = (into) => {
  const old = into.querySelector(".chart");
  if (old) return old;
  const made = element("div", { class: "chart" });
  into.append(made);
  return made;
};
const stacked = (into, segments, total, unit, size) => {
  const cells = shownFirst(MOST_BARS).filter((cell) => segments.some((s) => s.of(cell)));
  if (!cells.length) { into.replaceChildren(note("Nothing was measured.")); return; }
  const values = cells.flatMap((cell, order) => segments.map((s, place) => ({ cell: CELLS.name[cell], order, place, part: s.title, value: (s.of(cell) ?? 0) / size })));
  const used = segments.filter((s) => cells.some((cell) => s.of(cell)));
  plot(holderOf(into), {
    width: "container", height: { step: 24 }, data: { values: values.filter((row) => used.some((s) => s.title === row.part)) },
    mark: { type: "bar", stroke: ink("--paper"), strokeWidth: 1, tooltip: { content: "encoding" } },
    encoding: {
      y: { field: "cell", type: "nominal", sort: cells.map((cell) => CELLS.name[cell]), axis: { title: null, labelLimit: 220, ticks: false } },
      x: { field: "value", type: "quantitative", axis: { title: `${total} (${unit})`, tickCount: 6, format: "~s" } },
      color: { field: "part", type: "nominal", scale: { domain: used.map((s) => s.title), range: used.map((s) => s.color) }, legend: { orient: "top", title: null, columns: innerWidth < 700 ? 2 : 8 } },
      order: { field: "place" }, tooltip: [{ field: "cell" }, { field: "part" }, { field: "value", format: ",.4~g", title: unit }],
    },
  });
};
/* Colour of a value in a heat map, and that of its number: of black and white the one that can be read on it. */
const light = (color) => {
  const [r, g, b] = color.match(/[\d.]+/g).map((part) => part / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const heat = (value, low, high) => {
  if (value === null) return { fill: ink("--raised"), ink: ink("--ink") };
  const color = vega.scheme("viridis")(high > low ? (value - low) / (high - low) : 0.5);
  const fill = color.startsWith("#") ? `rgb(${[1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)).join(",")})` : color;
  return { fill, ink: light(fill) > 0.179 ? "#000" : "#fff" };
};
/* The mean of several seeds' curves at the steps that all of them have, the last of these and the last of any. */
const meanCurve = (curves) => {
  const at = new Map();
  for (const curve of curves) for (const { step, loss } of curvePoints(curve)) at.set(step, [...(at.get(step) ?? []), loss]);
  const points = [...at].filter(([, losses]) => losses.length === curves.length).sort((a, b) => a[0] - b[0])
    .map(([step, losses]) => ({ step, loss: losses.reduce((sum, loss) => sum + loss, 0) / losses.length }));
  return { points, last: points.at(-1)?.step ?? null, longest: Math.max(...at.keys()) };
};
const SECTIONS = {
  heat: (into) => {
    const measures = [["score", "score (%)", (c) => (scoreOf().mean[c] === null ? null : 100 * scoreOf().mean[c])],
      ...["peak_train_bytes", "train_seconds", "tokens_per_second", "base_weights_bytes"].filter((n) => COLUMNS.has(n)).map((n) => [n, COLUMNS.get(n).head, (c) => (column(n, c) === null ? null : column(n, c) / COLUMNS.get(n).size)])];
    const select = into.querySelector("select") ?? element("select", { "aria-label": "quantity", onchange: () => SECTIONS.heat(into) }, ...measures.map(([name, title]) => element("option", { value: name }, title)));
    if (!select.isConnected) into.append(element("p", { class: "tools" }, element("label", {}, "Show ", select)));
    const [, title, of] = measures.find(([name]) => name === select.value);
    const rows = PLACES.filter((c) => families().has(familyOf(c)));
    const known = rows.map(of).filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const values = rows.map((c) => ({
      method: familyOf(c), rank: CELLS.rank[c] === null ? "–" : String(CELLS.rank[c]), precision: CELLS.precision[c], text: number(of(c)), ...heat(of(c), low, high),
      tip: of(c) === null ? CELLS.trouble[c] || "not measured" : number(of(c)),
    }));
    const precisions = [...new Set(values.map((row) => row.precision))];
    const ranks = [...new Set(values.map((row) => row.rank))].sort((a, b) => (a === "–" ? -1 : b === "–" ? 1 : a - b));
    const columns = Math.max(1, Math.floor(into.clientWidth / (precisions.length * 62 + 70)));
    plot(holderOf(into), {
      autosize: "pad", data: { values }, facet: { field: "method", type: "nominal", title: null, header: { labelLimit: 300 } }, columns, resolve: { scale: { y: "independent", x: "shared" } },
      spec: {
        width: { step: 62 }, height: { step: 26 },
        encoding: { x: { field: "precision", type: "nominal", sort: precisions, axis: { title: null, labelAngle: 0, orient: "bottom" } }, y: { field: "rank", type: "nominal", sort: ranks, axis: { title: "rank", titleAngle: 0, titleAlign: "right" } } },
        layer: [
          {
            mark: { type: "rect", stroke: ink("--rule") },
            encoding: { color: { field: "fill", type: "nominal", scale: null }, tooltip: [{ field: "method" }, { field: "rank" }, { field: "precision" }, { field: "tip", title }] },
          },
          { mark: { type: "text", fontSize: 13 }, encoding: { text: { field: "text" }, color: { field: "ink", type: "nominal", scale: null } } },
        ],
      },
    });
    for (const old of into.querySelectorAll(":scope > .quiet")) old.remove();
    into.append(note(`${title}, means over seeds; –: no trial ended ok; empty: not in the grid. Rows: rank, whose meaning depends on the method. Equal ranks of two methods are not equal sizes.`));
  },
  ledger: (into) => {
    const size = COLUMNS.get("peak_train_bytes");
    stacked(into, DATA.memory.map((c) => ({ title: c.title, color: c.color, of: (cell) => column(c.name, cell) })), "memory at the training peak", size?.unit ?? "B", size?.size ?? 1);
  },
  ladder: (into) => {
    const { bars, lead, heads, rows, notes, unit, size } = DATA.ladder;
    const narrow = innerWidth < 700;
    const used = DATA.memory.map((part, place) => ({ ...part, place })).filter(({ place }) => bars.some((bar) => bar.parts[place]));
    const saved = "reduction";
    const values = bars.flatMap(({ label, parts, saved: less }, order) => [...used.map(({ title, place }) => ({ label, order, place, part: title, value: parts[place] / size })), ...(less ? [{ label, order, place: 99, part: saved, value: less / size }] : [])]);
    const ends = bars.map(({ label, parts, saved: less, text }) => ({ label, text, end: parts.reduce((sum, part) => sum + part, 0) / size }));
    /* on a phone a row's label stands above its bar, where there is room for all of it */
    const y = { field: "label", type: "nominal", sort: bars.map(({ label }) => label), axis: { title: null, labels: !narrow, labelLimit: 420, ticks: false } };
    const x = { field: "value", type: "quantitative", axis: { title: `${narrow ? "" : "memory at the "}training peak (${unit})`, tickCount: narrow ? 3 : 6, format: ",~f" }, scale: { domainMax: (narrow ? 1.3 : 1.12) * Math.max(...ends.map(({ end }) => end)) } };
    const written = { type: "text", align: "left", fontSize: 12, color: ink("--ink") };
    plot(holderOf(into), {
      width: "container", height: { step: narrow ? 42 : 26 },
      layer: [
        {
          data: { values }, mark: { type: "bar", ...(narrow ? { height: 16, yOffset: 7 } : {}), stroke: ink("--paper"), strokeWidth: 1, tooltip: { content: "encoding" } },
          encoding: {
            y, x, color: { field: "part", type: "nominal", scale: { domain: [...used.map((part) => part.title), saved], range: [...used.map((part) => part.color), ink("--rule")] }, legend: { orient: "top", title: null, columns: narrow ? 2 : 5 } },
            order: { field: "place" }, tooltip: [{ field: "label", title: "row" }, { field: "part" }, { field: "value", format: ",.4~g", title: unit }],
          },
        },
        { data: { values: ends }, mark: { ...written, dx: 4, dy: narrow ? 7 : 0 }, encoding: { y, x: { field: "end", type: "quantitative" }, text: { field: "text" } } },
        ...(narrow ? [{ data: { values: ends }, mark: { ...written, x: 3, dy: -10 }, encoding: { y, text: { field: "label" } } }] : []),
      ],
    });
    if (into.querySelector("table")) return;
    if (lead) into.querySelector("summary").after(element("p", {}, element("strong", {}, lead)));
    const shown = plainTable(heads.map((head) => element("span", {}, ...broken(head))), rows.map(([number, change, ...others]) => [number, element("span", {}, ...broken(change)), ...others.map((text) => text.replace("(x ", "(x\u00a0"))]), "ladder of memory");
    shown.querySelector("table").classList.add("dense");
    into.append(shown, ...notes.map(note));
  },
  phases: (into) => stacked(into, DATA.time.map((c) => ({ title: c.title, color: c.color, of: (cell) => c.names.reduce((sum, name) => sum + Math.max(0, column(name, cell) ?? 0), 0) })), "time of a trial", "s", 1),
  curves: async (into) => {
    const cells = shownFirst(MOST_CURVES);
    const each = await Promise.all(cells.map(async (cell) => (await Promise.all(trialsOf(cell).filter((t) => TRIALS.status[t] === "ok").map((t) => ofTrial("curves", t)))).filter(Boolean)));
    const averaged = cells.map((cell, i) => ({ cell, ...meanCurve(each[i]) }));
    const values = averaged.flatMap(({ cell, points }) => points.map((point) => ({ cell: CELLS.name[cell], ...point })));
    if (!values.length) { into.replaceChildren(element("summary", {}, "Training loss"), note("No steps are stored.")); return; }
    const names = cells.map((cell) => CELLS.name[cell]);
    const dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 1], [1, 3], [10, 4], [6, 2, 1, 2, 1, 2], [3, 3]];
    const encoding = { field: "cell", type: "nominal" };
    const legend = { orient: "top", title: null, columns: innerWidth < 700 ? 1 : 3, labelLimit: 240, symbolType: "stroke", symbolStrokeWidth: 2.5, symbolSize: 400 };
    plot(holderOf(into), {
      width: "container", height: 300, data: { values }, mark: { type: "line", strokeWidth: 1.8, tooltip: { content: "data" } },
      encoding: {
        x: { field: "step", type: "quantitative", axis: { tickCount: 8 } }, y: { field: "loss", type: "quantitative", scale: { type: "log", nice: false }, axis: { title: "training loss", tickCount: 6 } },
        color: { ...encoding, scale: { domain: names, range: names.map((_, i) => Object.values(PALETTE())[i % 8]) }, legend },
        strokeDash: { ...encoding, scale: { domain: names, range: names.map((_, i) => dashes[i % dashes.length]) }, legend },
      },
    });
    for (const old of into.querySelectorAll(".quiet")) old.remove();
    const cut = averaged.filter(({ last, longest }) => last < longest).map(({ cell, last, longest }) => `${CELLS.name[cell]} (${last === null ? "none" : `up to ${last}`} of ${longest})`);
    into.append(note(`Means over seeds of the first ${MOST_CURVES} cells that the table shows. Filter or sort the table to see others.${cut.length ? ` Only steps that every seed has: ${cut.join(", ")}.` : ""}`));
  },
  samples: async (into) => {
    const all = await part("samples");
    if (!all.length) { into.append(note("No scored examples are stored.")); return; }
    const select = element("select", { "aria-label": "example" }, ...all.map((s, i) => element("option", { value: String(i) }, `${s.task}, example ${s.index}: ${s.why}`)));
    const body = element("div");
    const draw = () => {
      const sample = all[Number(select.value)];
      const order = new Map(allShown().map((cell, i) => [cell, i]));
      const rows = sample.cells.map((cell, i) => [cell, i]).filter(([cell]) => order.has(cell)).sort((a, b) => order.get(a[0]) - order.get(b[0]));
      body.replaceChildren(pairs([["prompt", asText(sample.prompt)], ["reference", asText(sample.target)]]),
        plainTable(["cell", "answer", "mark"], rows.map(([cell, i]) => [CELLS.name[cell], asText(sample.texts[i]), element("span", { class: sample.marks[i] === "right" ? "good" : sample.marks[i] === "wrong" || sample.marks[i] === "unreadable" ? "trouble" : "" }, sample.marks[i])]), "answers"));
    };
    select.addEventListener("change", draw);
    into.append(element("p", { class: "tools" }, select), note("From each cell's finished trial with the lowest seed."), body);
    draw();
  },
  search: (into) => {
    const found = DATA.search;
    const holders = into.querySelectorAll(".chart").length ? [...into.querySelectorAll(".chart")] : ["tried", "spent"].map(() => element("div", { class: "chart" }));
    if (!holders[0].isConnected) into.append(...holders);
    const figures = [
      [found.tried, { scale: { type: "log" }, axis: { title: "learning rate", format: "~g", tickCount: 6 } }, "validation score (%)"],
      [found.spent, { scale: { zero: true }, axis: { title: "trials spent", tickCount: 6 } }, "expected best so far (%)"],
    ];
    figures.forEach(([rows, x, title], i) => {
      if (!rows.length) return;
      const names = [...new Set(rows.map(([cell]) => CELLS.name[cell]))];
      const styles = Object.fromEntries(rows.map(([cell]) => [CELLS.name[cell], styleOf(cell)]));
      const scale = (of) => ({ field: "cell", type: "nominal", scale: { domain: names, range: names.map((name) => styles[name][of]) }, legend: null });
      plot(holders[i], {
        width: "container", height: 240, data: { values: rows.map(([cell, x, score]) => ({ cell: CELLS.name[cell], x, score: 100 * score })) },
        mark: { type: "line", point: { size: 60, filled: true }, tooltip: { content: "data" } },
        encoding: { x: { field: "x", type: "quantitative", ...x }, y: { field: "score", type: "quantitative", scale: { zero: false }, axis: { title } }, color: scale("color"), shape: scale("shape") },
      });
    });
    if (!into.querySelector("table")) into.append(plainTable(found.heads, found.rows, "learning-rate search"), ...found.notes.map(note));
  },
  deployed: (into) => {
    const { heads, rows, notes } = DATA.deployed;
    into.append(plainTable(heads, rows, "score after deployment"), ...notes.map(note));
  },
  settings: (into) => {
    const { notes, methods, differing, common } = DATA.audit;
    into.append(...notes.map((text) => element("p", {}, text)), element("h3", {}, "Not equal in all rows, and not an axis of the grid"),
      differing.length ? plainTable(["setting", ...methods], differing.map(([name, values]) => [element("span", {}, ...broken(name)), ...values]), "settings that differ") : note("none"),
      element("h3", {}, "Equal in all rows"), pairs(common));
  },
  environment: (into) => {
    const { common, packages, differing } = DATA.environment;
    if (differing.length) into.append(element("h3", {}, "Differs between trials"), pairs(differing));
    into.append(element("h3", {}, "Machine"), pairs(common), element("h3", {}, "Packages"), pairs(packages));
  },
  notes: (into) => { for (const { title, texts } of DATA.notes) into.append(element("h3", {}, title), ...texts.map((text) => element("p", {}, text))); },
};
const PALETTE = () => Object.fromEntries(DATA.palette[isDark() ? "dark" : "light"].map((color, i) => [i, color]));
const familyOf = (cell) => [CELLS.title[cell], CELLS.variant[cell], new Set(CELLS.base).size > 1 ? `on ${CELLS.base[cell]}` : ""].filter((word) => word && word !== "nan").join(" ");
/* Families of cells with more than one rank or more than one precision. */
let family = null;
const families = () => {
  if (family) return family;
  const found = new Map();
  for (const cell of PLACES) {
    const seen = found.get(familyOf(cell)) ?? found.set(familyOf(cell), [new Set(), new Set()]).get(familyOf(cell));
    seen[0].add(CELLS.rank[cell]);
    seen[1].add(CELLS.precision[cell]);
  }
  family = new Set([...found].filter(([, [ranks, precisions]]) => ranks.size > 1 || precisions.size > 1).map(([name]) => name));
  return family;
};
const LIVE = new Set(["heat", "ledger", "phases", "curves"]);
const bindSections = () => {
  const there = { heat: families().size > 0, settings: Boolean(DATA.audit), environment: Boolean(DATA.environment), search: Boolean(DATA.search), deployed: Boolean(DATA.deployed), ladder: Boolean(DATA.ladder), notes: DATA.notes.length > 0, anatomy: DATA.anatomy.length > 0 };
  for (const details of document.querySelectorAll("details[data-section]")) {
    const name = details.dataset.section;
    if (there[name] === false) { details.remove(); continue; }
    const make = async () => {
      try { await SECTIONS[name](details); } catch (error) { details.append(element("p", { class: "trouble" }, error.message)); }
    };
    details.addEventListener("toggle", () => {
      if (!details.open || (details.dataset.built && !LIVE.has(name))) return;
      details.dataset.built = "yes";
      make();
    });
    const again = () => { if (details.open && details.dataset.built) make(); };
    if (LIVE.has(name)) byId("table").addEventListener("shown", again);
    if (LIVE.has(name) || name === "search" || name === "ladder") themed.push(again);
    if (name !== "ladder") continue;
    byId("answer").after(element("section", { "aria-label": "ladder of memory" }, details)); /* the suite asks for it: it comes first */
    details.open = true;
  }
};
