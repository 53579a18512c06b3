/* The answer: probabilities from the joint draws, for the tolerated loss, budget and task of one's choice. */
const SURE = 0.95;
const unpack = (draws) => {
  if (draws.made) return draws.made;
  const text = atob(draws.data);
  const raw = new Int8Array(text.length);
  for (let i = 0; i < text.length; i += 1) raw[i] = text.charCodeAt(i);
  draws.made = raw;
  return raw;
};
/* Probability that a cell is within a loss of the best, by cell; null where outcomes are not stored. */
const probabilities = (score, within) => {
  const found = Array(COUNT).fill(null);
  const draws = score.draws;
  if (!draws || !Number.isFinite(within)) return found;
  const raw = unpack(draws);
  const { n, cells, step } = draws;
  const values = new Float64Array(raw.length);
  const best = new Float64Array(n).fill(-Infinity);
  cells.forEach((cell, k) => {
    for (let i = 0; i < n; i += 1) {
      const value = score.mean[cell] + step[k] * raw[k * n + i];
      values[k * n + i] = value;
      if (value > best[i]) best[i] = value;
    }
  });
  cells.forEach((cell, k) => {
    let good = 0;
    for (let i = 0; i < n; i += 1) if (best[i] - values[k * n + i] <= within + 1e-9) good += 1;
    found[cell] = good / n;
  });
  return found;
};

let within = probabilities(scoreOf(), Number(state.within) / 100);
const column = (name, cell) => (COLUMNS.has(name) ? COLUMNS.get(name).values[cell] : null);
const fits = (cell) => {
  const limits = [[measure(state.budget, BYTES), "peak_train_bytes"], [measure(state.time, SECONDS), "train_seconds"]];
  return limits.every(([most, name]) => most === null || (column(name, cell) !== null && column(name, cell) <= most));
};
const cheapest = (cells, name) => cells.filter((cell) => column(name, cell) !== null)
  .sort((a, b) => column(name, a) - column(name, b) || (within[b] ?? 0) - (within[a] ?? 0))[0];
const answerOf = () => {
  const score = scoreOf();
  const tuned = PLACES.filter((cell) => !CELLS.is_base[cell] && score.mean[cell] !== null);
  const inside = tuned.filter(fits);
  const best = tuned.reduce((a, b) => (a === null || score.mean[b] > score.mean[a] ? b : a), null);
  const floor = Math.max(score.majority ?? 0, ...PLACES.filter((c) => CELLS.is_base[c]).map((c) => score.high[c] ?? score.mean[c] ?? 0));
  const good = inside.filter((cell) => within[cell] !== null && within[cell] >= SURE);
  const leading = inside.reduce((a, b) => (a === null || (within[b] ?? -1) > (within[a] ?? -1) ? b : a), null);
  return { score, tuned, inside, best, floor, good, leading, memory: cheapest(good, "peak_train_bytes"), time: cheapest(good, "train_seconds") };
};
const strong = (text) => element("strong", {}, text);
const cellLink = (cell) => element("button", { type: "button", class: "link", onclick: () => openCell(cell) }, CELLS.name[cell]);
const costsOf = (cell) => {
  const texts = [];
  const told = (name, text) => { if (column(name, cell) !== null) texts.push(text(show(COLUMNS.get(name), cell), COLUMNS.get(name).unit)); };
  told("peak_train_bytes", (value, unit) => `${value} ${unit} peak`);
  told("train_seconds", (value, unit) => `${value} ${unit} to train`);
  told("checkpoint_bytes", (value, unit) => `${value} ${unit} saved`);
  told("forgetting", (value, unit) => `forgets ${value} ${unit}`);
  told("decode_over_base", (value) => `decodes at ${value} × the base's time`);
  const merge = column("merge", cell);
  if (merge) texts.push(merge === "yes" ? "can be merged" : "cannot be merged");
  return texts.join(", ");
};
const answerWords = () => {
  const found = answerOf();
  const d = tolerated();
  const on = found.score.task === "mean over tasks" ? "the mean over tasks" : found.score.task;
  if (found.best === null) return ["No cell has a score yet."];
  if (!found.score.draws) return ["Cannot tell: the outcomes of the scored examples are not stored, so only the intervals over seeds are known."];
  const top = found.score.low[found.best] ?? found.score.mean[found.best];
  if (top <= found.floor) return ["Cannot tell: on ", on, " no cell is above the untuned base and the majority answer by more than noise."];
  if (!found.inside.length) return ["No cell fits the budget."];
  const cell = found.memory ?? found.time;
  if (cell === undefined) {
    if (found.leading === null) return ["Cannot tell yet."];
    return [strong("Cannot tell yet."), ` No cell within the budget is within ${d} points of the best on ${on} with 95 % probability. Nearest: `,
      cellLink(found.leading), ` (${chance(within[found.leading])} %).`];
  }
  const words = [strong("Take "), strong(cellLink(cell)), `: the least memory of ${plural(found.good.length, "cell")} that ${found.good.length === 1 ? "is" : "are"} within ${d} points of the best on ${on} `
    + `(probability ${chance(within[cell])} %). Score ${percent(found.score.mean[cell])}; ${costsOf(cell)}.`];
  if (found.time !== undefined && found.time !== cell) words.push(" Fastest: ", cellLink(found.time), `, ${costsOf(found.time)}.`);
  return words;
};
const drawAnswer = () => {
  within = probabilities(scoreOf(), Number(state.within) / 100);
  byId("answer-words").replaceChildren(...answerWords());
};
const bindAnswer = () => {
  const task = byId("task");
  DATA.scores.forEach((score, i) => task.append(element("option", { value: String(i) }, score.task)));
  task.closest("label").hidden = DATA.scores.length < 2;
  const inputs = { within: byId("within"), budget: byId("budget"), time: byId("time"), task };
  const fill = () => { for (const [name, input] of Object.entries(inputs)) if (input.value !== state[name]) input.value = state[name]; };
  const bad = (name, value) => (name === "within" && !(Number(value) >= 0 && value.trim()))
    || (name === "budget" && Number.isNaN(measure(value, BYTES))) || (name === "time" && Number.isNaN(measure(value, SECONDS)));
  for (const [name, input] of Object.entries(inputs)) {
    input.addEventListener("input", () => {
      input.setAttribute("aria-invalid", String(bad(name, input.value)));
      if (!bad(name, input.value)) choose({ [name]: input.value });
    });
  }
  fill();
  onChoice(["within", "budget", "time", "task"], () => { fill(); drawAnswer(); });
  drawAnswer();
};
