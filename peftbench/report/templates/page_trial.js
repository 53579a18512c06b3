/* An opened cell: its trials, and of one of them everything that is stored. */
const TRIALS = DATA.trials;
const trialsOf = (cell) => TRIALS.key.map((_, i) => i).filter((i) => TRIALS.cell[i] === cell).sort((a, b) => (TRIALS.seed[a] ?? -1) - (TRIALS.seed[b] ?? -1));
const openCell = (cell) => { const [first] = trialsOf(cell); if (first !== undefined) choose({ open: TRIALS.key[first] }); };
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
const commandOf = (trial) => {
  if (!DATA.rerun) return ""; /* another benchmark's results */
  const cell = TRIALS.cell[trial];
  const axes = ["method", "rank", "precision"];
  const alike = PLACES.filter((other) => axes.every((name) => CELLS[name][other] === CELLS[name][cell])); /* cells may differ in options only */
  const only = alike.length > 1 ? [["cell", CELLS.cell[cell]]] : axes.map((name) => [name, CELLS[name][cell] ?? "none"]);
  const seed = TRIALS.seed[trial];
  return `${DATA.rerun} ${only.map(([name, value]) => `--only ${quoted(`${name}=${value}`)}`).join(" ")}${seed === null ? "" : ` --seeds ${seed},`} --fresh`;
};
const pairs = (rows) => element("dl", { class: "pairs" }, ...rows.filter(([, value]) => value !== null && value !== undefined && value !== "")
  .flatMap(([name, value]) => [element("dt", {}, ...broken(name)), element("dd", {}, value instanceof Node ? value : String(value))]));
/* A dotted name that may break over lines after each part. */
const broken = (name) => String(name).split(/(?<=[._/])/).flatMap((piece) => [piece, document.createElement("wbr")]);
const plainTable = (heads, rows, label) => element("div", { class: "scroll", role: "region", tabIndex: 0, "aria-label": label },
  element("table", { class: "plain" }, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((value, i) => element(i ? "td" : "th", i ? {} : { scope: "row" }, value instanceof Node ? value : String(value ?? MISSING))))))));
const folded = (title, build, open = false) => {
  const details = element("details", { open }, element("summary", {}, title));
  const make = async () => {
    if (details.dataset.built) return;
    details.dataset.built = "yes";
    try { await build(details); } catch (error) { details.append(element("p", { class: "trouble" }, error.message)); }
  };
  details.addEventListener("toggle", () => { if (details.open) make(); });
  if (open) make();
  return details;
};
const bytes = (value) => {
  const [size, unit] = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]].find(([s]) => Math.abs(value) >= s) ?? [1, "B"];
  return `${number(value / size)} ${unit}`;
};
const barTable = (rows, total) => element("table", { class: "bars" }, element("tbody", {}, ...rows.map(([title, value, text, color]) => element("tr", {},
  element("th", { scope: "row" }, title), element("td", { class: "num" }, text),
  element("td", { class: "bar" }, element("i", { style: `width:${Math.max(0, 100 * value / (total || 1))}%;background:${color}` }))))));
const drawTrial = () => {
  const trial = TRIALS.key.indexOf(state.open);
  const dialog = byId("trial");
  if (trial < 0) { if (dialog.open) dialog.close(); return; }
  const cell = TRIALS.cell[trial];
  const all = trialsOf(cell);
  const select = element("select", { "aria-label": "seed" }, ...all.map((i) => element("option", { value: TRIALS.key[i], selected: i === trial }, `seed ${TRIALS.seed[i] ?? "none"} (${TRIALS.status[i]})`)));
  select.addEventListener("change", () => choose({ open: select.value }));
  const command = commandOf(trial);
  const message = TRIALS.messages[TRIALS.message[trial]];
  const score = (place) => (TRIALS[`score_${place}`]?.[trial] ?? null);
  const tasks = DATA.scores.filter((s) => s.task !== "mean over tasks");
  byId("trial-title").replaceChildren(CELLS.name[cell]);
  byId("trial-body").replaceChildren(
    element("p", { class: "tools" }, select, element("span", { class: TRIALS.status[trial] === "ok" ? "good" : "trouble" }, TRIALS.status[trial])),
    ...(message ? [element("p", { class: "trouble text" }, `${TRIALS.phase?.[trial] ? `in ${TRIALS.phase[trial]}: ` : ""}${message}`)] : []),
    pairs([
      ...tasks.map((s, i) => [`score on ${s.task}`, score(i) === null ? null : `${percent(score(i))} %`]),
      ["peak memory", TRIALS.peak_train_bytes?.[trial] ? bytes(TRIALS.peak_train_bytes[trial]) : null],
      ["train time", TRIALS.train_seconds?.[trial] ? `${number(TRIALS.train_seconds[trial])} s` : null],
      ["ended", TRIALS.finished_at?.[trial]], ["key", TRIALS.key[trial]],
      ["log", TRIALS.log_file?.[trial] ?? (DATA.rerun ? "none kept: logs of trials that ended ok are removed" : null)],
    ]),
    ...(command ? [element("p", { class: "tools" }, element("code", { class: "command" }, command), element("button", { type: "button", onclick: (event) => copy(command, event.target) }, "copy"))] : []),
    folded("All numbers of the cell (means over seeds)", (into) => into.append(pairs(CHOICES.filter((c) => c.values[cell] !== null && c.values[cell] !== undefined).map((c) => [c.head, show(c, cell)])))),
    folded("Training loss", (into) => trialCurve(into, trial), TRIALS.status[trial] === "ok" && !CELLS.is_base[cell]),
    folded("Memory ledger", (into) => trialLedger(into, trial, cell)),
    folded("Samples", (into) => trialSamples(into, cell)),
    folded("Settings", async (into) => into.append(pairs(await indexed("settings", trial)))),
    folded("Environment", async (into) => into.append(pairs(await indexed("environments", trial)))),
  );
  if (!dialog.open) dialog.showModal();
};
const curvePoints = (curve) => curve.loss.map((loss, i) => ({ step: curve.first + i * curve.every, loss })).filter(({ loss }) => loss !== null);
const trialCurve = async (into, trial) => {
  const curve = await ofTrial("curves", trial);
  if (!curve) { into.append(element("p", {}, "No steps are stored.")); return; }
  const holder = element("div", { class: "chart" });
  into.append(holder);
  const values = curvePoints(curve);
  const color = styleOf(TRIALS.cell[trial]).color;
  plot(holder, { width: "container", height: 180, data: { values }, mark: { type: "line", color, tooltip: true }, encoding: { x: { field: "step", type: "quantitative", axis: { tickCount: 6 } }, y: { field: "loss", type: "quantitative", scale: { zero: false } } } });
  if (curve.every > 1) into.append(element("p", { class: "quiet" }, `Each point is the mean of ${curve.every} steps.`));
};
const trialLedger = async (into, trial, cell) => {
  const peak = DATA.memory.map((c) => [c.title, column(c.name, cell) ?? 0, bytes(column(c.name, cell) ?? 0), c.color]);
  if (peak.some(([, value]) => value)) into.append(element("h4", {}, "At the training peak"), barTable(peak, peak.reduce((sum, row) => sum + row[1], 0)));
  const ledger = await ofTrial("ledgers", trial);
  if (!ledger) return;
  const names = [...new Set(Object.values(ledger).flatMap((phase) => Object.keys(phase)))];
  into.append(element("h4", {}, "After each phase"), plainTable(["phase", ...names.map((name) => name.replaceAll("_", " "))],
    Object.entries(ledger).map(([phase, found]) => [phase, ...names.map((name) => (found[name] ? bytes(found[name]) : MISSING))]), "ledger by phase"));
};
const trialSamples = async (into, cell) => {
  const found = (await part("samples")).filter((sample) => sample.cells.includes(cell));
  if (!found.length) into.append(element("p", {}, "No scored examples are stored."));
  for (const sample of found) {
    const place = sample.cells.indexOf(cell);
    into.append(element("h4", {}, `${sample.task}, example ${sample.index}`), pairs([["prompt", asText(sample.prompt)], ["reference", asText(sample.target)],
      ["answer", asText(sample.texts[place])], ["mark", sample.marks[place]]]));
  }
};
const asText = (text) => element("span", { class: "text" }, text);
const bindTrial = () => {
  const dialog = byId("trial");
  dialog.addEventListener("close", () => choose({ open: "" }));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  byId("trial-close").addEventListener("click", () => dialog.close());
  onChoice(["open"], drawTrial);
  themed.push(() => { if (dialog.open) drawTrial(); });
  drawTrial();
};
