/* Several results folders: which there are, what each answers, what may be compared, and the one that is shown. */
const MOST_SENTENCES = 3;
const bindFolders = () => {
  if (!FOLDERS) return;
  const { parts: each, notes: [first, ...pairsOfFolders], audit } = FOLDERS;
  const own = each[PLACE];
  document.querySelector("h1").replaceChildren(own.name, element("span", {}, ` ${DATA.suite} on ${DATA.base}`));
  document.title = `${own.name} · peftbench`;
  DATA.status.push({ title: "folders", text: audit.rows.length ? `${each.length}, not all equal` : `${each.length}, all else equal`, level: audit.rows.length ? "" : "ok" });
  const rows = each.map((one, place) => [
    place === PLACE ? element("strong", { "aria-current": "true" }, `${one.name} (shown)`) : element("button", { type: "button", class: "link", onclick: () => elsewhere(place) }, one.name),
    one.suite, one.base, one.trials, one.answer,
  ]);
  const sentences = pairsOfFolders.map((text) => element("p", { class: "quiet" }, text));
  const few = sentences.length <= MOST_SENTENCES;
  byId("folders").append(element("div", { class: "overview" }, plainTable(["results", "suite", "base", "trials ok", "answer"], rows, "results folders")), element("p", { class: "quiet" }, first), ...(few ? sentences : []),
    folded(few ? "What differs between the folders" : "What may be compared, and what differs between the folders", (into) => into.append(...(few ? [] : sentences), audit.rows.length
      ? plainTable(["setting", ...audit.names], audit.rows.map(([name, values]) => [element("span", {}, ...broken(name)), ...values]), "what differs between the folders")
      : note("Nothing that is recorded."))));
};
