/* How the base models are built. */
SECTIONS.anatomy = (into) => {
  for (const one of DATA.anatomy) {
    if (DATA.anatomy.length > 1) into.append(element("h3", {}, one.base));
    if (one.reason) { into.append(element("p", {}, one.reason)); continue; }
    const total = one.parts.reduce((sum, [, value]) => sum + value, 0);
    const color = Object.values(PALETTE())[0];
    into.append(element("dl", { class: "pairs" }, ...one.facts.flatMap(([title, text, meaning]) => [element("dt", {}, element("span", { "data-tip": meaning, tabIndex: 0 }, title)), element("dd", {}, text)])),
      barTable(one.parts.map(([name, value, text]) => [name, value, text, color]), total));
  }
};
