/* The answer: probabilities from the joint draws, for the tolerated loss, budget and task of one's choice. */
const unpack = (draws) => {
  if (draws.made) return draws.made;
  const text = atob(draws.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  const raw = new Int16Array(bytes.buffer);
  draws.made = raw;
  return raw;
};
/* Probability that a cell is within a loss of the best, by cell; null for cells that cannot be judged. */
const probabilities = (score, loss) => {
  const found = Array(COUNT).fill(null);
  const { draws, answer } = score;
  if (!draws || !Number.isFinite(loss)) return found;
  if (loss === answer.within) { draws.cells.forEach((cell, k) => { found[cell] = answer.probabilities[k]; }); return found; }
  const raw = unpack(draws);
  const { n, cells, step, scores } = draws;
  const values = new Float64Array(raw.length);
  const best = new Float64Array(n).fill(-Infinity);
  cells.forEach((cell, k) => {
    for (let i = 0; i < n; i += 1) {
      const value = scores[k] + step[k] * raw[k * n + i];
      values[k * n + i] = value;
      if (value > best[i]) best[i] = value;
    }
  });
  cells.forEach((cell, k) => {
    let good = 0;
    for (let i = 0; i < n; i += 1) if (best[i] - values[k * n + i] <= loss / 100 + 1e-6) good += 1;
    found[cell] = good / n;
  });
  return found;
};
/* The probability from which on a cell is good enough: the higher one of the two losses around, at least 95 %. */
const levelOf = (score, loss) => {
  const { levels } = score.answer;
  const below = [...levels].reverse().find(([at]) => at <= loss) ?? levels[0];
  const above = levels.find(([at]) => at >= loss) ?? levels[levels.length - 1];
  return Math.max(below[1], above[1]);
};

let within = probabilities(scoreOf(), Number(state.within));
const column = (name, cell) => (COLUMNS.has(name) ? COLUMNS.get(name).values[cell] : null);
const limits = () => [measure(state.budget, BYTES), measure(state.time, SECONDS)];
const secondsOf = (cell) => scoreOf().answer?.seconds[cell] ?? null;
const fits = (cell) => {
  const [most, longest] = limits();
  const paid = [[most, column("peak_train_bytes", cell)], [longest, secondsOf(cell)]];
  return paid.every(([limit, cost]) => limit === null || (cost !== null && cost <= limit));
};
const cheapest = (cells, of) => [...cells].sort((a, b) => (of(a) ?? Infinity) - (of(b) ?? Infinity) || scoreOf().mean[b] - scoreOf().mean[a])[0];
const memoryText = (value) => {
  const [size, unit] = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]].find(([s]) => value >= s) ?? [1, "B"];
  return `${fixed(value / size, size === 1 ? 0 : 1)} ${unit}`;
};
const secondsText = (value) => {
  if (value < 120) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  const whole = Math.round(value);
  const two = (part) => String(part).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  return minutes < 120 ? `${minutes} min ${two(whole % 60)} s` : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
};
const pointsText = (value) => `${value >= 0.1 ? value.toFixed(1).replace(/\.0$/, "") : value} point${Number(value.toFixed(1)) === 1 ? "" : "s"}`;
/* The answer to a question other than the default one, in the words of `peftbench answer`. */
const otherWords = () => {
  const score = scoreOf();
  const loss = Number(state.within);
  const [most, longest] = limits();
  const bounds = [most === null ? "" : memoryText(most), longest === null ? "" : secondsText(longest)].filter(Boolean);
  const limited = bounds.length ? ` trained within ${bounds.join(" and ")}` : "";
  const on = state.task === "0" ? "" : ` on ${score.task}`;
  const near = `within ${pointsText(loss)} of the best${on}`;
  const judged = score.draws.cells;
  const allowed = judged.filter(fits);
  const level = levelOf(score, loss);
  const good = allowed.filter((cell) => within[cell] >= level);
  const best = judged.reduce((a, b) => (score.mean[b] > score.mean[a] ? b : a));
  const name = (cell) => CELLS.name[cell];
  if (!allowed.length) {
    const smallest = cheapest(judged, (cell) => column("peak_train_bytes", cell));
    return [`No cell${limited}: the smallest peak is ${memoryText(column("peak_train_bytes", smallest) ?? 0)} (${name(smallest)}).`];
  }
  if (!good.length && judged.some((cell) => within[cell] >= level)) {
    const fit = allowed.reduce((a, b) => (score.mean[b] > score.mean[a] ? b : a));
    return [`No cell${limited} is known to lie ${near}, ${name(best)} (${percent(score.mean[best])}).`,
      `The best that is, ${name(fit)} (${percent(score.mean[fit])}), loses ${pointsText(100 * (score.mean[best] - score.mean[fit]))}.`];
  }
  if (!good.length) {
    const likely = [...allowed].sort((a, b) => within[b] - within[a]).slice(0, 3);
    return [`Cannot tell yet: no cell${limited} is known to lie ${near} for new seeds and new examples.`,
      `Likeliest to: ${likely.map((cell) => `${name(cell)} (${(100 * within[cell]).toFixed(0)} %)`).join(", ")}.`];
  }
  return goodWords(good, best, limited, near, loss);
};
const goodWords = (good, best, limited, near, loss) => {
  const score = scoreOf();
  const name = (cell) => CELLS.name[cell];
  const peak = (cell) => column("peak_train_bytes", cell);
  const take = cheapest(good, peak);
  const cells = `the ${good.length} cells${limited} that are known to lie ${near}`;
  const words = [good.length === 1 ? `Take ${name(take)}: the only cell${limited} that is known to lie ${near}.`
    : peak(take) !== null ? `Take ${name(take)}: of ${cells}, it needs the least memory (${memoryText(peak(take))}).` : `Take any of ${cells}.`];
  const paid = [[peak(take), "peak", memoryText], [secondsOf(take), "training", secondsText], [column("checkpoint_bytes", take), "checkpoint", memoryText]]
    .filter(([value]) => value !== null).map(([value, what, text]) => `${what} ${text(value)}`).join(", ");
  words.push(`Score ${percent(score.mean[take])}${take === best ? "" : `; the best, ${name(best)}, has ${percent(score.mean[best])}`}; P(within ${loss}) is ${(100 * within[take]).toFixed(0)} %.${paid ? ` ${paid[0].toUpperCase()}${paid.slice(1)}.` : ""}`);
  if (good.length > 1 && good.every((cell) => secondsOf(cell) !== null)) {
    const fast = cheapest(good, secondsOf);
    words.push(fast === take ? "It also trains fastest of them." : `By time it is ${name(fast)}: ${secondsText(secondsOf(fast))}${peak(fast) === null ? "" : `, ${memoryText(peak(fast))}`}.`);
  }
  const [forgets, decode, merge] = ["forgetting", "decode_over_base", "merge"].map((of) => column(of, take));
  const beside = [forgets === null ? "" : `${forgets >= 0 ? "forgets" : "gains"} ${Math.abs(forgets).toFixed(2)} nats/token of general text`,
    decode === null ? "" : `decodes in ${decode.toFixed(2)} times the base's time`, merge === null ? "" : merge === "yes" ? "can be merged" : "cannot be merged"].filter(Boolean);
  if (beside.length) words.push(`It ${beside.length > 1 ? `${beside.slice(0, -1).join(", ")} and ${beside.at(-1)}` : beside[0]}.`);
  return words;
};
const isDefault = () => Number(state.within) === scoreOf().answer.within && limits().every((limit) => limit === null);
/* Sentences with the names of cells as buttons that open them. */
const linked = (text) => {
  const names = [...CELLS.name].sort((a, b) => b.length - a.length).map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const found = new RegExp(`(?<![\\w.=-])(${names.join("|")})(?![\\w=+-])`, "g");
  return text.split(found).map((piece, i) => (i % 2 ? element("button", { type: "button", class: "link", onclick: () => openCell(CELLS.name.indexOf(piece)) }, piece) : piece));
};
const answerWords = () => {
  const { answer, draws } = scoreOf();
  if (!answer) return [];
  const own = answer.refused || !draws || isDefault();
  const [first, ...rest] = own ? answer.words : otherWords();
  const command = own && isDefault() && answer.command ? [" ", element("code", {}, answer.command)] : [];
  return [element("strong", {}, ...linked(first ?? "")), " ", ...linked(rest.join(" ")), ...command];
};
const drawAnswer = () => {
  within = probabilities(scoreOf(), Number(state.within));
  byId("answer-words").replaceChildren(...answerWords());
};
const bindAnswer = () => {
  const task = byId("task");
  DATA.scores.forEach((score, i) => task.append(element("option", { value: String(i) }, score.task)));
  task.closest("label").hidden = DATA.scores.length < 2;
  const inputs = { within: byId("within"), budget: byId("budget"), time: byId("time"), task };
  const fill = () => { for (const [name, input] of Object.entries(inputs)) if (input.value !== state[name]) input.value = state[name]; };
  const bad = (name, value) => (name === "within" && !(Number(value) > 0 && Number(value) <= 100))
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
