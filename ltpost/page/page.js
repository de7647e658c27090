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

// Many against few: the heads on every split, and on that of the choice every value along the curves and their front.
function paretoSection(page) {
  const { data } = page;
  const known = data.splits.filter((split) => split.results.some(({ figures }) => figures.many !== null && figures.few !== null));
  if (!known.length) return null;
  return section("pareto", `${page.heading("many")} against ${page.heading("few")}`, ...known.flatMap((split) => paretoParts(page, split)));
}

function paretoParts(page, split) {
  const { data } = page, named = split.results.length <= 12;
  const dot = (x, y, name) => ({ x, y, text: `${name}: ${page.heading("many")} ${percent(x)} %, ${page.heading("few")} ${percent(y)} %` });
  const heads = split.results.map(({ method, figures }) => ({ ...dot(figures.many, figures.few, page.label(method)),
    label: named ? page.label(method) : "" }));
  const onCurves = data.front && data.front.split === split.split;
  const curves = onCurves ? Object.values(data.curves).map((curve) => figuresAlong(curve, data.classes.group)) : [];
  const paths = curves.map(({ many, few }) => ({ kind: "line path", line: Array.from(many, (x, k) => [x, few[k]]) }));
  const front = onCurves ? data.front.points.map(([x, y, method, setting]) => dot(x, y, [page.label(method), setting].join(" ").trim()))
    : frontOf(heads).map(({ x, y, text }) => ({ x, y, text }));
  const all = [...heads.map(({ x, y }) => [x, y]), ...paths.flatMap(({ line }) => line)];
  const axis = (figure, numbers) => ({ label: `${page.heading(figure)}, accuracy on ${split.split}`, percent: true,
    domain: shareExtent(numbers, 0.08) });
  const shown = chart({ name: `many against few on ${split.split}`, height: 340, x: axis("many", all.map(([x]) => x)),
    y: axis("few", all.map(([, y]) => y)),
    marks: () => [...paths, { line: front.map(({ x, y }) => [x, y]), kind: "line front" },
      { dots: front, kind: "front small" }, { dots: heads, kind: "method" }] });
  const words = onCurves ? "thin lines: every value along the curves, on the rows that chose them; " : "";
  return [element("h3", {}, split.split), element("p", { class: "muted" }, `Dots: the chosen heads; ${words}thick line: what no other ` +
    `one here beats in both, ${front.length} in all.`), shown.figure];
}

// The points that no other is at least as good as in both and better in one, by falling x.
function frontOf(points) {
  const front = [];
  for (const point of [...points].sort((a, b) => b.x - a.x || b.y - a.y))
    if (!front.length || point.y > front[front.length - 1].y) front.push(point);
  return front;
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
