// Tables and pictures of every class.

// A table of classes with a filter by name and by group. ``columns``: those beside class, training samples and group.
function classTable(page, name, columns, sortBy = -1) {
  const { classes } = page.data, { counts, group } = classes;
  const all = Array.from({ length: classes.num }, (_, c) => c);
  let text = "", wanted = "";
  const matches = (c) => (!text || className(classes, c).toLowerCase().includes(text)) && (!wanted || GROUPS[group[c]] === wanted);
  const known = [{ title: "Class", left: true, value: (c) => className(classes, c), text: (c) => className(classes, c) }];
  if (counts) known.push({ title: "Training", value: (c) => counts[c], text: (c) => counts[c].toLocaleString("en") });
  if (group) {
    known.push({ title: "Group", left: true, value: (c) => group[c], text: (c) => page.heading(GROUPS[group[c]]),
                 kind: (c) => GROUPS[group[c]] });
  }
  const table = sortedTable({ name, columns: [...known, ...columns], rows: () => all.filter(matches), sortBy });
  const search = element("input", { type: "search", placeholder: "name of a class", "aria-label": `filter: ${name}`,
    oninput: () => { text = search.value.trim().toLowerCase(); table.refresh(); } });
  const groups = [["", "all groups"], ...page.groups.map((one) => [one, page.heading(one)])];
  const pick = group ? choice("", groups, "", (one) => { wanted = one; table.refresh(); }) : null;
  return { figure: element("div", {}, element("p", { class: "controls" }, search, pick), table.figure), refresh: table.refresh };
}

function share(hits, totals, c) {
  return totals[c] > 0 ? hits[c] / totals[c] : NaN;
}

function accuracyColumn(title, hits, totals) {
  const value = (c) => share(hits(), totals(), c);
  return { title, value, text: (c) => percent(value(c)) };
}

function differenceColumn(title, hits, reference, totals) {
  const value = (c) => share(hits(), totals(), c) - share(reference(), totals(), c);
  return { title, value, text: (c) => signed(value(c)), kind: (c) => (value(c) > 0 ? "up" : value(c) < 0 ? "down" : "") };
}

// Every class on the reported split: the joint classifier, the chosen method and their difference.
function perClassSection(page) {
  const { data } = page, split = data.splits[0];
  const of = (method) => split.results.find((one) => one.method === method);
  const joint = of("joint"), totals = () => split.totals, hits = () => (of(page.method) || split.results[0]).hits;
  const columns = [{ title: "Rows", value: (c) => split.totals[c], text: (c) => split.totals[c].toLocaleString("en") }];
  if (joint) columns.push(accuracyColumn("joint", () => joint.hits, totals));
  columns.push(accuracyColumn("method", hits, totals));
  if (joint) columns.push(differenceColumn("difference", hits, () => joint.hits, totals));
  const table = classTable(page, "every class", columns);
  const text = element("p", { class: "muted" });
  page.follow(() => {
    text.textContent = `Accuracy in % on ${split.split}; method: ${page.label(page.method)}.`;
    table.refresh();
  });
  return section("classes", "Every class", text, table.figure);
}

// Values of every class against its training samples, as dots.
function againstCounts(page, name, label, series, { isPercent = false, log = false, height = 300 } = {}) {
  const { classes } = page.data, counts = classes.counts;
  const usable = (value) => Number.isFinite(value) && (!log || value > 0);
  const dotsOf = ([title, values]) => Array.from(values, (value, c) => ({ x: counts[c], y: value, c }))
    .filter((dot) => dot.x > 0 && usable(dot.y))
    .map((dot) => ({ ...dot, text: `${className(classes, dot.c)} (${dot.x.toLocaleString("en")}): ${title} ` +
      (isPercent ? `${percent(dot.y)} %` : short(dot.y)) }));
  const known = () => series().map(([title, values, kind]) => ({ dots: dotsOf([title, values]), kind, title }));
  const first = known(), xs = Array.from(counts).filter((count) => count > 0);
  const most = Math.max(...xs), least = Math.min(...xs);
  const domain = isPercent ? [0, 1] : log ? logExtent(first) : extent(first.flatMap((one) => one.dots.map((dot) => dot.y)));
  return chart({ name, height, marks: known, legend: first.map((one) => [one.kind, one.title]),
    x: { label: "training samples of the class", log: true, domain: [least / 1.1, most * 1.1] },
    y: { label, percent: isPercent, domain, log } });
}

function logExtent(marks) {
  const [low, high] = extent(marks.flatMap((mark) => mark.dots.map((dot) => Math.log(dot.y))));
  return [Math.exp(low), Math.exp(high)];
}
