/* The page's data, numbers as text, and the state that is in the page's address. */
/* Of several results folders each has its own data; the address says which is shown. */
const FOLDERS = document.getElementById("folders-data") && JSON.parse(document.getElementById("folders-data").textContent);
const placeAsked = Number(new URLSearchParams(location.hash.slice(1)).get("results") ?? 0);
const PLACE = FOLDERS && Number.isInteger(placeAsked) && placeAsked > 0 && placeAsked < FOLDERS.parts.length ? placeAsked : 0;
const dataOf = (place) => {
  const data = JSON.parse(document.getElementById(place ? `data-${place}` : "data").textContent);
  for (const column of data.columns) {
    if (column.texts) column.values = column.values.map((at) => column.texts[at]);
    column.size ??= 1;
    column.unit ??= "";
    column.head = column.unit ? `${column.title} (${column.unit})` : column.title;
  }
  return data;
};
const DATA = dataOf(PLACE);
/* The data of every folder, in their order. */
const EVERY = FOLDERS ? FOLDERS.parts.map((_, place) => (place === PLACE ? DATA : dataOf(place))) : [];
const CELLS = DATA.cells;
const COUNT = CELLS.name.length;
/* Cells of the grid without any result: rows of the table after all others, of which only names and the number of trials are known. */
const NOT_RUN = DATA.not_run;
const rowName = (cell) => CELLS.name[cell] ?? NOT_RUN.name[cell - COUNT];
const rowTrouble = (cell) => CELLS.trouble[cell] ?? NOT_RUN.trouble[cell - COUNT];
const MISSING = "–";
const PLACES = [...Array(COUNT).keys()];
const COLUMNS = new Map(DATA.columns.map((column) => [column.name, column]));

/* A number with some decimals, rounded as Python does: the exact value, of two equally near ones the even one. */
const rounded = (value, digits) => {
  const text = value.toFixed(digits);
  if (Math.abs(value * 10 ** digits * 2) % 2 !== 1 || digits > 15 || !/[13579]$/.test(text)) return text;
  const exact = value.toFixed(digits + 60);
  return /^50*$/.test(exact.slice(exact.indexOf(".") + 1 + digits)) ? (value - (Math.sign(value) * 10 ** -digits) / 2).toFixed(digits) : text;
};
const grouped = (text) => text.replace(/^(-?)(\d+)/, (_, sign, whole) => sign + whole.replace(/\B(?=(\d{3})+$)/g, ","));
const fixed = (value, digits) => grouped(rounded(value, digits));
/* A number as Python's "g" writes it: six significant digits. */
const general = (value) => {
  const size = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(Number(value.toPrecision(6)))));
  if (size >= -4 && size < 6) return String(Number(rounded(value, 5 - size)));
  const [digits, power] = value.toExponential(5).split("e");
  return `${Number(digits)}e${power[0]}${power.slice(1).padStart(2, "0")}`;
};
/* Three significant digits below a hundred, whole numbers with separators above. */
const number = (value) => {
  if (value === null || value === undefined) return MISSING;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e9) return value.toExponential(2);
  return fixed(value, Math.max(0, 2 - Math.floor(Math.log10(size))));
};
const percent = (value) => (value === null || value === undefined ? MISSING : fixed(100 * value, 1));
const chance = (value) => {
  if (value === null || value === undefined) return MISSING;
  if (value > 0 && value < 0.01) return "<1";
  if (value < 1 && value > 0.99) return ">99";
  return fixed(100 * value, 0);
};
const show = (column, cell) => {
  const value = column.values[cell];
  if (value === null || value === undefined) return MISSING;
  if (column.kind === "text") return value;
  return column.kind === "percent" ? percent(value) : number(value / column.size);
};
const count = (value) => {
  const units = [[1e12, " T"], [1e9, " B"], [1e6, " M"], [1e3, " k"]];
  const unit = units.find(([size]) => Math.abs(value) >= size);
  return unit ? number(value / unit[0]) + unit[1] : number(value);
};

/* Elements with text that stays text: nothing that was measured or written by a model is ever read as HTML. */
const element = (tag, properties = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name in made && name !== "list" && !name.startsWith("aria")) made[name] = value;
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};
const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const byId = (id) => document.getElementById(id);
const plural = (n, noun) => `${n.toLocaleString("en-US")} ${noun}${n === 1 ? "" : "s"}`;

/* A part of the data that is read when it is needed: from the page, or from a file beside it. */
const parts = new Map();
const waiting = new Map();
window.peftbenchPart = (name, value) => { waiting.get(name)?.(value); };
const part = (own) => {
  const name = PLACE ? `of-${PLACE}-${own}` : own;
  if (parts.has(name)) return parts.get(name);
  const inside = document.querySelector(`script[data-part="${name}"]`);
  const found = inside
    ? Promise.resolve(JSON.parse(inside.textContent))
    : new Promise((done, fail) => {
      waiting.set(name, done);
      const source = `${encodeURIComponent(document.body.dataset.files)}/${name}.js`;
      document.head.append(element("script", { src: source, onerror: () => fail(new Error(`${source} is missing: keep it beside the page`)) }));
    });
  parts.set(name, found);
  return found;
};
const ofTrial = async (name, trial) => {
  const piece = await part(`${name}-${Math.floor(trial / DATA.together)}`);
  return piece[trial % DATA.together];
};
/* Names and values of a trial's settings or environment. */
const indexed = async (name, trial) => {
  const all = await part(name);
  const set = all.sets[all.of[trial]];
  return all.names.map((title, i) => [title, set[i] < 0 ? null : all.values[i][set[i]]]);
};

/* Whether any cell has a score: without one there is nothing to rank by, and cells stand in the order of the results. */
const SCORED = DATA.scores.some(({ mean }) => mean.some((value) => typeof value === "number"));

/* What a reader chose. It is in the address, so that a link shows the same. */
const DEFAULT_COLUMNS = ["peak_train_bytes", "peak_run_reserved_bytes", "train_seconds", "tokens_per_second", "forgetting", "decode_over_base"];
const ALL_COSTS = [
  ["peak_train_bytes", "peak memory"], ["train_seconds", "train time"], ["trainable_parameters", "trainable parameters"],
  ["checkpoint_bytes", "checkpoint"], ["peak_run_reserved_bytes", "memory reserved, whole run"], ["decode_over_base", "decode"], ["forgetting", "forgetting"],
];
const COSTS = ALL_COSTS.filter(([name]) => COLUMNS.has(name));
/* Over all folders: the columns that any of them has, in a unit that suits the largest numbers. */
const EVERY_COLUMNS = new Map();
for (const { columns } of EVERY) for (const each of columns) if (!(EVERY_COLUMNS.get(each.name)?.size >= each.size)) EVERY_COLUMNS.set(each.name, each);
const EVERY_COSTS = ALL_COSTS.filter(([name]) => EVERY_COLUMNS.has(name));
const DEFAULTS = {
  within: "2", budget: "", time: "", task: "0", cost: COSTS[0]?.[0] ?? "", columns: DEFAULT_COLUMNS.filter((n) => COLUMNS.has(n)).join(","),
  sort: SCORED ? "score,desc" : "", search: "", method: "", rank: "", precision: "", base: "", open: "", results: "0",
  folder: "", find: "", order: "score,desc", over: EVERY_COSTS[0]?.[0] ?? "",
};
const state = { ...DEFAULTS };
const listeners = [];
/* Of each choice the values that it may have; whatever else an address says is ignored, with the default in its place. */
const FILTERS = Object.fromEntries([["method", CELLS.title], ["rank", CELLS.rank], ["precision", CELLS.precision], ["base", CELLS.base]].map(([name, values]) => [name, [...values, ...NOT_RUN[name]]]));
const among = (values) => (value) => values.map((each) => String(each ?? "none")).includes(value);
const KNOWN_COLUMNS = new Set(["cell", "score", "within", ...COLUMNS.keys(), ...DATA.scores.flatMap((_, i) => [`score_${i}`, `score_${i}_sd`])]);
const ALLOWED = {
  within: (text) => !Number.isNaN(pointsOf(text)), budget: (text) => !Number.isNaN(memoryOf(text)), time: (text) => !Number.isNaN(timeOf(text)),
  task: among(DATA.scores.map((_, i) => i)), cost: among(COSTS.map(([name]) => name)), columns: (text) => text.split(",").every((name) => !name || KNOWN_COLUMNS.has(name)),
  sort: (text) => { const [name, direction, ...more] = text.split(","); return KNOWN_COLUMNS.has(name) && ["asc", "desc"].includes(direction) && !more.length; },
  search: () => true, ...Object.fromEntries(Object.entries(FILTERS).map(([name, values]) => [name, among(values)])), open: among(DATA.trials.key),
  results: among(FOLDERS ? FOLDERS.parts.map((_, i) => i) : [0]), folder: among(EVERY.map((_, i) => i)), find: () => true, over: among(EVERY_COSTS.map(([name]) => name)),
  order: (text) => { const [name, direction, ...more] = text.split(","); return (["cell", "results", "score", "within"].includes(name) || EVERY_COLUMNS.has(name)) && ["asc", "desc"].includes(direction) && !more.length; },
};
const readAddress = () => {
  if (location.hash.length > 1 && !location.hash.includes("=")) return; /* the name of a place on the page, and no choice */
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) {
    const value = given.get(name);
    state[name] = value !== null && (value === DEFAULTS[name] || ALLOWED[name](value)) ? value : DEFAULTS[name];
  }
};
const writeAddress = () => {
  const kept = new URLSearchParams(Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]));
  const hash = `#${kept}`;
  if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
};
const choose = (changes) => {
  const changed = Object.keys(changes).filter((name) => state[name] !== changes[name]);
  if (!changed.length) return;
  Object.assign(state, changes);
  writeAddress();
  for (const listener of listeners) listener(new Set(changed));
};
/* Call a function whenever one of these choices changes. */
const onChoice = (names, call) => listeners.push((changed) => { if (names.some((name) => changed.has(name))) call(changed); });

/* Sizes and times as the options of `peftbench answer` read them: null for none, NaN for what is none. */
const BYTES = { b: 1, kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30, tib: 2 ** 40 };
const AMOUNT = "(\\d+(?:\\.\\d*)?|\\.\\d+)\\s*";
const SIZE = new RegExp(`^\\s*${AMOUNT}([a-z]+)\\s*$`, "i");
const DURATION = new RegExp(`^\\s*${["days?|d", "hours?|hrs?|h", "minutes?|mins?|m", "seconds?|secs?|s"].map((unit) => `(?:${AMOUNT}(?:${unit})(?![a-z]))?`).join("\\s*")}\\s*$`, "i");
const positive = (value) => (value > 0 && value < Infinity ? value : NaN);
const memoryOf = (text) => {
  if (!text.trim()) return null;
  const found = SIZE.exec(text);
  return positive(found ? Math.trunc(Number(found[1]) * (BYTES[found[2].toLowerCase()] ?? NaN)) : NaN);
};
const timeOf = (text) => {
  if (!text.trim()) return null;
  const amounts = DURATION.exec(text)?.slice(1) ?? [];
  return positive(amounts.reduce((sum, amount, i) => sum + Number(amount ?? 0) * [86400, 3600, 60, 1][i], 0));
};
const pointsOf = (text) => (/^\s*(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) && Number(text) > 0 && Number(text) <= 100 ? Number(text) : NaN);
const tolerated = () => general(Number(state.within));
const scoreOf = () => DATA.scores[Number(state.task)];
