// The page: the summary, many against few, the sections of the other files, and the choice of a method.

function makePage(data) {
  const followers = [], names = Object.keys(data.labels).filter((name) => name !== "joint");
  const page = {
    data,
    method: names[0] || "joint",
    label: (name) => data.labels[name] || name,
    figures: FIGURES.filter((name) => name in data.headings),
    groups: GROUPS.filter((name) => name in data.headings),
    heading: (figure) => data.headings[figure],
    resultOf: (split, method) => (data.splits.find((one) => one.split === split) || { results: [] }).results.find((one) => one.method === method),
    follow(use) { followers.push(use); use(); },
    choose(name) {
      page.method = name;
      for (const select of document.querySelectorAll("#method select")) select.value = name;
      for (const use of followers) use();
    },
  };
  return page;
}

function summarySection(page) {
  const tables = page.data.splits.flatMap((split) => {
    const present = split.totals.filter((total) => total > 0).length;
    const left = split.invalid ? `; ${split.invalid.toLocaleString("en")} unreadable rows left out` : "";
    return [
      element("h3", {}, split.split),
      element("p", { class: "muted" }, `${sum(split.totals).toLocaleString("en")} rows, ${present.toLocaleString("en")} of ` +
        `${split.totals.length.toLocaleString("en")} classes${left}. Accuracy in %, ± to the farther end of the 95 % interval.`),
      resultsTable(page, split).figure,
      split.note ? element("p", { class: "muted" }, split.note) : null,
      ...split.more.flatMap((more) => [element("p", { class: "muted" }, `${more.title}, on ${split.split}`), moreTable(page, more)]),
    ];
  });
  return section("summary", "All methods", ...tables);
}

function resultsTable(page, split) {
  const best = Object.fromEntries(page.figures.map((name) => [name, Math.max(...split.results.map((one) => one.figures[name] ?? -1))]));
  const figure = (name) => ({
    title: page.heading(name),
    value: (one) => one.figures[name],
    text: (one) => withInterval(one.figures[name], one.intervals[name]),
    kind: (one) => (one.figures[name] === best[name] ? "best" : ""),
  });
  return sortedTable({ name: `all methods on ${split.split}`, rows: () => split.results, pageRows: 100, columns: [
    { title: "Method", left: true, value: (one) => page.label(one.method), text: (one) => page.label(one.method) },
    ...page.figures.map(figure),
    ...(split.paired || []).map((title, k) => ({ title, text: (one) => (one.paired ? one.paired[k] : ""),
      value: (one) => (one.paired ? Number(one.paired[k].replace("<", "0").split(" ")[0]) : NaN) })),
    { title: "How", left: true, value: (one) => one.detail, text: (one) => one.detail, kind: () => "muted" },
  ] });
}

function withInterval(value, interval) {
  if (value === null || interval[0] === null) return percent(value);
  return `${percent(value)} ±${(100 * Math.max(interval[1] - value, value - interval[0])).toFixed(1)}`;
}

function moreTable(page, more) {
  const text = (value, k) => (value === null ? "–" : more.shares[k] ? percent(value) : value.toFixed(3));
  return plainTable(["method", ...more.columns], more.rows.map(([name, values]) => [page.label(name), ...values.map(text)]));
}

// Many against few: every head on the reported split, and every value along the curves on the split of the choice.
function paretoSection(page) {
  const { data } = page, { group } = data.classes;
  const has = (name) => data.splits[0].results.some((one) => one.figures[name] !== null);
  const across = page.groups.find(has), up = [...page.groups].reverse().find(has);
  if (!across || across === up) return null;
  const pictures = data.splits.map((split) => {
    const curves = Object.entries(data.curves).filter(([, curve]) => curve.split === split.split);
    const paths = curves.map(([name, curve]) => ({ name, along: figuresAlong(curve, group), values: curve.values, symbol: curve.symbol }))
      .filter(({ along }) => along[across] && along[up]);
    const heads = split.results.map((one) => ({ x: one.figures[across], y: one.figures[up], text: `${page.label(one.method)}: ` +
      `${page.heading(across)} ${percent(one.figures[across])}, ${page.heading(up)} ${percent(one.figures[up])}`,
      label: split.results.length <= 12 ? page.label(one.method) : "" }));
    const steps = paths.flatMap(({ name, along, values, symbol }) => Array.from(values, (value, k) => ({ x: along[across][k], y: along[up][k],
      text: `${page.label(name)}, ${symbol} ${short(value)}: ${percent(along[across][k])}, ${percent(along[up][k])}` })));
    const front = paretoFront([...steps, ...heads]), all = [...steps, ...heads];
    const shown = chart({ name: `${across} against ${up} on ${split.split}`, height: 340,
      x: { label: `${page.heading(across)}, accuracy on ${split.split}`, percent: true, domain: shareExtent(all.map((dot) => dot.x), 0.08) },
      y: { label: `${page.heading(up)}, accuracy on ${split.split}`, percent: true, domain: shareExtent(all.map((dot) => dot.y), 0.08) },
      marks: () => [
        ...paths.map(({ along }) => ({ line: Array.from(along[across], (x, k) => [x, along[up][k]]), kind: "line path" })),
        { line: front.map(({ x, y }) => [x, y]), kind: "line front" },
        { dots: front, kind: "front small" }, { dots: heads, kind: "method" }] });
    const words = paths.length ? "thin lines: every value along the curves; " : "";
    return [element("h3", {}, split.split), element("p", { class: "muted" }, `Dots: the chosen heads; ${words}thick line: what no other ` +
      `head here beats in both (${front.length} of them).`), shown.figure];
  });
  return section("pareto", `${page.heading(across)} against ${page.heading(up)}`, ...pictures.flat());
}

// The points that no other is at least as good as in both and better in one, from left to right.
function paretoFront(points) {
  const order = points.filter(({ x, y }) => x !== null && y !== null).sort((a, b) => b.x - a.x || b.y - a.y), front = [];
  for (const point of order) if (!front.length || point.y > front[front.length - 1].y + 1e-9) front.push(point);
  return front.reverse();
}

function notesSection(page) {
  const { data } = page;
  const items = data.signatures.map(({ method, signature, notes }) => element("li", {}, element("strong", {}, page.label(method)), " ",
    element("code", {}, signature), ...notes.map((note) => element("p", {}, note))));
  const notes = [...new Set(data.notes)].map((note) => element("p", {}, note));
  return section("notes", "Signatures and notes", ...notes, element("ul", { class: "signatures" }, ...items));
}

function start(data) {
  const page = makePage(data), main = document.getElementById("page");
  for (const curve of Object.values(data.curves)) {
    curve.symbol = { tau: "τ", beta: "β", gamma: "γ", alpha: "α" }[curve.parameter] || curve.parameter;
  }
  const sections = [summarySection, sliderSection, paretoSection, perClassSection, countsSection, reliabilitySection,
    confusionSection, diagnosticsSection, notesSection].map((make) => make(page)).filter((made) => made !== null);
  const methods = Object.keys(data.labels).filter((name) => name !== "joint").map((name) => [name, page.label(name)]);
  const links = sections.map((made) => element("a", { href: `#${made.id}` }, made.querySelector("h2").textContent));
  const about = data.about.map(([label, text]) => [element("dt", {}, label), element("dd", {}, text)]);
  main.replaceChildren(element("h1", {}, data.title), element("dl", { class: "about" }, ...about.flat()),
    element("nav", { id: "method" }, choice("method", methods, page.method, page.choose), element("div", { class: "links" }, ...links)),
    ...sections, element("footer", { class: "muted" }, `Made by ltpost ${data.version}. This file needs no network.`));
  main.dataset.ready = "yes";
}

readData().then(start).catch((error) => {
  document.getElementById("page").append(element("p", { role: "alert" }, `This report cannot be shown here: ${error.message}`));
  throw error;
});
