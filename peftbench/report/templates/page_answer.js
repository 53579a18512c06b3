/* The answer to any question, decided and worded as `peftbench answer` does; what it follows from is in payload/questions.py. */
const parsed = (texts) => texts.map((text) => (text === null ? null : Number(text)));
const PEAKS = DATA.costs && parsed(DATA.costs.peak);
const TIMES = DATA.costs && parsed(DATA.costs.seconds);
const NEEDS = DATA.costs && parsed(DATA.costs.needs);
const prepared = new Map();
/* A task's numbers: k counts the judged cells. */
const questionsOf = (score) => {
  if (!score.questions || prepared.has(score)) return prepared.get(score) ?? null;
  const text = atob(score.questions.statistics);
  const bytes = new DataView(Uint8Array.from(text, (c) => c.charCodeAt(0)).buffer);
  const statistics = Float32Array.from({ length: text.length / 4 }, (_, i) => bytes.getFloat32(4 * i, true));
  const made = { ...score.questions, statistics, scores: parsed(score.questions.scores), all: score.questions.cells.map((_, k) => k) };
  prepared.set(score, made);
  return made;
};
const ROUNDING = 1e-6;
const SAME = 1e-9;
const STEP = 0.005;
const MOST_STEPS = 100;
const statistic = (q, k, at) => q.statistics[k * q.counts.length + at];
/* The draws in which a cell lies within a loss (a fraction of 1). Between two of the stored counts it is interpolated. */
const drawsWithin = (q, k, loss) => {
  const at = Math.fround(loss + ROUNDING);
  let [low, high] = [0, q.counts.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (statistic(q, k, middle) <= at) low = middle + 1; else high = middle;
  }
  if (!low) return 0;
  const [here, next] = [q.counts[low - 1], q.counts[low] ?? q.draws + 1];
  const [from, to] = [statistic(q, k, low - 1), low < q.counts.length ? statistic(q, k, low) : Infinity];
  return here + Math.floor((next - here - 1) * (Number.isFinite(to) && to > from ? (at - from) / (to - from) : 0));
};
/* Probability that a cell is within a loss (points) of the best, by cell; null for cells that cannot be judged. */
const probabilities = (score, points) => {
  const found = Array(score.mean.length).fill(null);
  const q = questionsOf(score);
  if (q) q.all.forEach((k) => { found[q.cells[k]] = drawsWithin(q, k, points / 100) / q.draws; });
  return found;
};
/* Whether a cell is within a loss in enough draws: the level is interpolated and rounded up to a thousandth. */
const enough = (q, loss) => {
  const below = q.levels.findLast(([at]) => at <= loss + SAME) ?? q.levels[0];
  const above = q.levels.find(([at]) => at >= loss - SAME) ?? q.levels.at(-1);
  const [low, high] = [Number(below[1]), Number(above[1])];
  const share = above[0] > below[0] ? (loss - below[0]) / (above[0] - below[0]) : 0;
  const thousandths = Math.ceil(1000 * (low + share * (high - low)) - ROUNDING);
  const place = q.counts.indexOf(q.enough.at(thousandths - 1001));
  return (k) => statistic(q, k, place) <= Math.fround(loss + ROUNDING);
};

let within = probabilities(scoreOf(), Number(state.within));
const column = (name, cell) => (COLUMNS.has(name) ? COLUMNS.get(name).values[cell] : null);
const limits = () => [memoryOf(state.budget), timeOf(state.time)];
const byCost = (q, cells, cost) => [...cells].sort((a, b) => (cost(a) === null) - (cost(b) === null) || (cost(a) ?? 0) - (cost(b) ?? 0) || q.scores[b] - q.scores[a]);
const highest = (q, cells) => cells.reduce((a, b) => (q.scores[b] > q.scores[a] ? b : a));
const decide = (q) => {
  const loss = Number(state.within) / 100;
  const [peak, seconds] = [(k) => PEAKS[q.cells[k]], (k) => TIMES[q.cells[k]]];
  const [most, longest] = limits();
  if (longest !== null && q.all.every((k) => seconds(k) === null)) return { status: "no times" };
  const limited = (k) => [[most, NEEDS[q.cells[k]]], [longest, seconds(k)]].filter(([limit]) => limit !== null);
  const fits = (k) => limited(k).every(([limit, cost]) => cost !== null && cost <= limit);
  const mayFit = (k) => limited(k).some(([, cost]) => cost === null) && limited(k).every(([limit, cost]) => cost === null || cost <= limit);
  const allowed = q.all.filter(fits);
  const best = highest(q, q.all);
  const rivals = q.not_judged.filter(([, score]) => Number(score) > q.scores[best] - loss);
  const found = { loss, best, rivals, allowed, mayFit, fits: allowed.length ? highest(q, allowed) : null, peak, seconds };
  const goodAt = (at) => byCost(q, allowed.filter(enough(q, at)), peak);
  const good = goodAt(loss);
  if (good.length) {
    if (rivals.length) return { ...found, status: "cannot tell" };
    const timed = good.every((k) => seconds(k) !== null);
    const [byMemory, byTime] = [peak(good[0]) === null ? null : good[0], timed ? byCost(q, good, seconds)[0] : null];
    return { ...found, status: "answer", good, byMemory, byTime, take: byMemory ?? byTime ?? good[0] };
  }
  if (!allowed.some((k) => q.scores[best] - q.scores[k] <= loss)) return { ...found, status: "over budget" };
  if (!goodAt(loss + MOST_STEPS * STEP).length) return { ...found, status: "cannot tell" };
  let steps = 1;
  while (!goodAt(loss + steps * STEP).length) steps += 1;
  return { ...found, status: "cannot tell", shown: goodAt(loss + steps * STEP)[0], shownWithin: 100 * (loss + steps * STEP) };
};

const memoryText = (value) => {
  const [size, unit] = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]].find(([s]) => value >= s) ?? [1, "B"];
  return `${size === 1 ? fixed(value, 0) : rounded(value / size, 1)} ${unit}`;
};
const secondsText = (value) => {
  if (value < 120) return `${rounded(value, value < 10 ? 2 : 1)} s`;
  const whole = Number(rounded(value, 0));
  const two = (piece) => String(piece).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  return minutes < 120 ? `${minutes} min ${two(whole % 60)} s` : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
};
const pointsText = (value) => `${general(value)} point${general(value) === "1" ? "" : "s"}`;
const abridged = (names, most) => (names.length <= most ? names.join(", ") : `${names.slice(0, most).join(", ")} and ${names.length - most} more`);
const limitsText = () => {
  const [most, longest] = limits();
  const bounds = [most === null ? "" : memoryText(most), longest === null ? "" : secondsText(longest)].filter(Boolean);
  return bounds.length ? ` trained within ${bounds.join(" and ")}` : "";
};
/* The judged cells of which it is not known whether they stay within a budget. */
const unmeasured = (q, name) => [[0, NEEDS, DATA.costs.unknown_memory], [1, TIMES, DATA.costs.unknown_time]].flatMap(([which, costs, text]) => {
  const unknown = limits()[which] === null ? [] : q.all.filter((k) => costs[q.cells[k]] === null).map(name);
  return unknown.length ? [text.replace("{}", () => abridged(unknown, 3))] : [];
});
/* What is said of percentages between the draws that the page has; empty if it has all that matter. */
const interpolated = (score) => {
  if (!score.questions || score.questions.exact_from === 0) return "";
  return `with this many cells ${score.questions.exact_from === null ? "percentages" : "percentages below 50"} are interpolated between draws; peftbench answer may print slightly different ones`;
};
const onTask = () => (state.task === "0" ? "" : ` on ${scoreOf().task}`);
const WORDS = {
  "no times": (q) => [`No answer: ${DATA.costs.no_times}.`, ...q.left_out, ...q.unfinished],
  answer: (q, found, name, near) => {
    const { best, take, good, byMemory, byTime, peak, seconds, fits, mayFit, loss } = found;
    const cells = `the ${good.length} cells${limitsText()} that are known to lie ${near}`;
    const words = [q.all.length === 1 ? `${name(take)} is the only cell that can be judged, so nothing is compared with it.`
      : good.length === 1 ? `Take ${name(take)}: the only cell${limitsText()} that is known to lie ${near}.`
        : byMemory !== null ? `Take ${name(take)}: of ${cells}, it needs the least memory (${memoryText(peak(take))}).`
          : byTime !== null ? `Take ${name(take)}: of ${cells}, it trains fastest; their memory was not measured.`
            : `Take any of ${cells}: ${abridged(good.map(name), 4)}. Neither their memory nor all their times are known.`];
    const paid = DATA.costs.paid[q.cells[take]];
    words.push(`Score ${q.texts[take]}${take === best ? "" : `; the best, ${name(best)}, has ${q.texts[best]}`}; P(within ${tolerated()}) is ${chances(q, take, loss)} %.${paid ? ` ${paid}` : ""}`);
    if (byTime === null) words.push(q.no_times);
    else if (byTime !== take) words.push(`By time it is ${name(byTime)}: ${secondsText(seconds(byTime))}${peak(byTime) === null ? "" : `, ${memoryText(peak(byTime))}`}.`);
    else if (good.length > 1 && byMemory !== null) words.push("It also trains fastest of them.");
    words.push(DATA.costs.beside[q.cells[take]]);
    if (q.base !== null && Number(q.base) <= loss) words.push(`The untuned base model itself lies within ${pointsText(Number(state.within))} of the best.`);
    if (q.below[fits]) words.push(`The best of all, ${name(best)}, is not${mayFit(best) ? " known to be" : ""} within the budget: the best that is, ${name(fits)}, loses ${q.below[fits]}.`);
    const unknown = good.filter((k) => peak(k) === null).map(name);
    return [...words, ...unmeasured(q, name), ...q.left_out, unknown.length && byMemory !== null ? `Memory was not measured for ${abridged(unknown, 3)}.` : "", ...q.unfinished];
  },
  "cannot tell": (q, { allowed, loss, shown, shownWithin, rivals }, name, near) => {
    if (rivals.length) {
      const scored = abridged(rivals.map(([cell, , text]) => `${CELLS.name[cell]} (${text})`), 3);
      const verb = rivals.length === 1 ? "was not judged and" : "were not judged, and one of them";
      return [`Cannot tell yet${onTask()}: ${scored} ${verb} may be the best.`, ...unmeasured(q, name), ...q.left_out, ...q.unfinished, rivals.some(([, , , once]) => once) ? DATA.costs.more_seeds : ""];
    }
    const likely = allowed.map((k) => [k, chances(q, k, loss)]).sort((a, b) => b[1] - a[1] || q.scores[b[0]] - q.scores[a[0]]).slice(0, 3);
    return [`Cannot tell yet: no cell${limitsText()} is known to lie ${near} for new seeds and new examples.`,
      `Likeliest to: ${likely.map(([k, share]) => `${name(k)} (${share} %)`).join(", ")}.`,
      shown === undefined ? "" : `Known so far: ${name(shown)} lies within ${pointsText(shownWithin)} of the best.`, ...unmeasured(q, name), ...q.left_out, ...q.unfinished];
  },
  "over budget": (q, { best, fits, mayFit }, name, near) => {
    const words = [];
    if (fits === null) {
      const least = (costs) => PLACES.filter((cell) => costs[cell] !== null).sort((a, b) => costs[a] - costs[b] || (CELLS.own[a] < CELLS.own[b] ? -1 : 1))[0];
      const [small, fast] = [least(NEEDS.map((value) => value || null)), least(TIMES)];
      const smallest = small === undefined ? "" : `: the smallest peak is ${memoryText(NEEDS[small])}${DATA.costs.beside_tensors} (${CELLS.name[small]})`;
      const shortest = limits()[1] === null || fast === undefined ? "" : `; the shortest training takes ${secondsText(TIMES[fast])} (${CELLS.name[fast]})`;
      words.push(`No cell${q.all.some(mayFit) ? " is known to have" : ""}${limitsText()}${smallest}${shortest}.`);
    } else words.push(`No cell${limitsText()} is known to lie ${near}, ${name(best)} (${q.texts[best]}).`);
    words.push(...unmeasured(q, name));
    if (fits !== null && q.below[fits]) words.push(`The best that is, ${name(fits)} (${q.texts[fits]}), loses ${q.below[fits]}.`, DATA.costs.beside[q.cells[fits]]);
    if (q.busy && limits()[1] !== null) words.push(q.no_times);
    return [...words, ...q.left_out, ...q.unfinished];
  },
};
const chances = (q, k, loss) => Number(rounded(100 * (drawsWithin(q, k, loss) / q.draws), 0));
const MOST_WORDS = 90;
const counted = (texts) => texts.join(" ").split(/\s+/).filter(Boolean).length;
const otherWords = () => {
  const score = scoreOf();
  const q = questionsOf(score);
  const found = decide(q);
  const near = `within ${pointsText(Number(state.within))} of the best${onTask()}`;
  const words = WORDS[found.status](q, found, (k) => CELLS.name[q.cells[k]], near);
  return [...words.filter(Boolean).reduce((kept, sentence) => (counted([...kept, sentence, ...q.finish]) <= MOST_WORDS ? [...kept, sentence] : kept), []), ...q.finish];
};
const isDefault = () => Number(state.within) === scoreOf().answer.within && limits().every((limit) => limit === null);
/* Sentences with the names of cells as buttons that open them; a cell that has not run has nothing to open. */
const linked = (text) => {
  const names = [...CELLS.name, ...NOT_RUN.name].sort((a, b) => b.length - a.length).map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const found = new RegExp(`(?<![\\w.=-])(${names.join("|")})(?![\\w=+-])`, "g");
  return text.split(found).map((piece, i) => (i % 2 && CELLS.name.includes(piece) ? element("button", { type: "button", class: "link", onclick: () => openCell(CELLS.name.indexOf(piece)) }, piece) : piece));
};
/* The command that answers the same question, and says how many seeds would decide it. */
const asked = () => {
  const options = [["--within", tolerated() === general(scoreOf().answer.within) ? "" : state.within.trim()], ["--budget", state.budget.trim()], ["--time", state.time.trim()],
    ["--task", state.task === "0" ? "" : scoreOf().task]].filter(([, value]) => value);
  return [DATA.ask, ...options.map(([name, value]) => `${name} ${quoted(value)}`)].join(" ");
};
const answerWords = () => {
  const { answer, questions } = scoreOf();
  if (!answer) return [];
  const own = !questions || questions.refused || !DATA.costs || isDefault();
  const [first, ...rest] = own ? answer.words : otherWords();
  const command = own ? answer.command : asked();
  return [element("strong", {}, ...linked(first ?? "")), " ", ...linked(rest.join(" ")), ...(command ? [" ", element("code", {}, command)] : [])];
};
const drawAnswer = () => {
  within = probabilities(scoreOf(), Number(state.within));
  byId("answer-words").replaceChildren(...answerWords());
  const said = interpolated(scoreOf());
  byId("interpolated").hidden = !said;
  byId("interpolated").textContent = said && `Probabilities: ${said}.`;
};
const bindAnswer = () => {
  const task = byId("task");
  DATA.scores.forEach((score, i) => task.append(element("option", { value: String(i) }, score.task)));
  task.closest("label").hidden = DATA.scores.length < 2;
  task.closest(".tools").hidden = !SCORED;
  const inputs = { within: byId("within"), budget: byId("budget"), time: byId("time"), task };
  const fill = () => {
    for (const [name, input] of Object.entries(inputs)) if (input.value !== state[name]) { input.value = state[name]; input.setAttribute("aria-invalid", "false"); }
  };
  const bad = (name, value) => !ALLOWED[name](value);
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
