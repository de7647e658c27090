// What every head does on the reported rows: norms, reliability, confusion, diagnostics. Joint stands beside the method.

// A section that is drawn anew when another method is chosen; ``parts(names)`` gives its elements.
function headSection(page, id, title, parts) {
  const place = element("div");
  page.follow(() => {
    const names = ["joint", page.method].filter((name, k, all) => name in page.data.heads && all.indexOf(name) === k);
    place.replaceChildren(...parts(names).filter((part) => part !== null));
  });
  return section(id, title, place);
}

const kindOf = (name) => (name === "joint" ? "joint" : "method");

function countsSection(page) {
  const { data } = page;
  return headSection(page, "counts", "Against training samples", (names) => {
    const seriesOf = (key) => names.flatMap((name) => {
      const found = data.heads[name].diagnosis.findings.norms;
      return found && found.series[key] ? [[page.label(name), found.series[key], kindOf(name)]] : [];
    });
    const norms = seriesOf("weight_norm"), parts = [];
    if (!data.classes.counts) return [element("p", {}, "The training samples of the classes are not known.")];
    if (norms.length) {
      const relative = norms.map(([title, values, kind]) => [title, relativeTo(values), kind]);
      parts.push(element("p", { class: "muted" }, "Norm of the weights of every class, over their geometric mean."),
        againstCounts(page, "weight norms", "‖w‖ / geometric mean", () => relative, { log: true }).figure);
    }
    const accuracy = data.splits[0].results.filter((one) => names.includes(one.method)).map((one) =>
      [page.label(one.method), Float64Array.from(one.hits, (_, c) => share(one.hits, data.splits[0].totals, c)), kindOf(one.method)]);
    parts.push(element("p", { class: "muted" }, `Accuracy of every class on ${data.splits[0].split}.`),
      againstCounts(page, "accuracy of every class", `accuracy on ${data.splits[0].split}`, () => accuracy, { isPercent: true }).figure);
    return parts;
  });
}

// Values over their geometric mean; those that are not positive are left out.
function relativeTo(values) {
  const logs = Array.from(values).filter((value) => value > 0).map(Math.log);
  const mean = Math.exp(sum(logs) / logs.length);
  return values.map((value) => value / mean);
}

function reliabilitySection(page) {
  return headSection(page, "reliability", "Reliability", (names) => {
    const of = (name) => page.data.heads[name].reliability;
    const marks = names.map((name) => ({ name, points: of(name).confidence.map((x, bin) => ({ x, y: of(name).accuracy[bin],
      share: of(name).share[bin] })).filter((point) => point.x !== null) }));
    const texts = names.map((name) => `${page.label(name)}: ECE ${percent(of(name).ece)} %, NLL ${of(name).nll.toFixed(3)}` +
      (of(name).fitted ? " (calibrated on val)" : ""));
    const axis = { percent: true, domain: [0, 1] };
    return [
      element("p", { class: "muted" }, `How often the answer is right, against how sure the head is of it, on ${page.data.split}; ` +
        `15 bins. On the diagonal they agree. ${texts.join("; ")}.`),
      chart({ name: "reliability", x: { ...axis, label: "confidence" }, y: { ...axis, label: `accuracy on ${page.data.split}` },
        legend: names.map((name) => [kindOf(name), page.label(name)]),
        marks: () => [{ line: [[0, 0], [1, 1]], kind: "line diagonal" }, ...marks.flatMap(({ name, points }) => [
          { line: points.map(({ x, y }) => [x, y]), kind: `line ${kindOf(name)}` },
          { kind: kindOf(name), dots: points.map((point) => ({ ...point, text: `${page.label(name)}: ${percent(point.share)} % of rows, ` +
            `confidence ${percent(point.x)} %, accuracy ${percent(point.y)} %` })) }])] }).figure,
    ];
  });
}

function confusionSection(page) {
  const { data } = page;
  return headSection(page, "confusion", "Confusion", (names) => names.flatMap((name) => {
    const head = data.heads[name], groups = head.diagnosis.findings.confusion;
    const pairs = sortedTable({ name: `confused classes of ${page.label(name)}`, rows: () => head.pairs, pageRows: 10, columns: [
      { title: "Class", left: true, value: ([c]) => className(data.classes, c), text: ([c]) => className(data.classes, c) },
      { title: "taken for", left: true, value: ([, c]) => className(data.classes, c), text: ([, c]) => className(data.classes, c) },
      { title: "rows", value: ([, , rows]) => rows, text: ([, , rows]) => rows.toLocaleString("en") },
      { title: "of", value: ([c]) => data.splits[0].totals[c], text: ([c]) => data.splits[0].totals[c].toLocaleString("en") },
    ] });
    return [
      element("h3", {}, page.label(name)),
      groups ? element("p", { class: "muted" }, `${groups.title}, on ${data.split}.`) : null,
      groups ? plainTable(groups.headings, groups.rows) : null,
      element("p", { class: "muted" }, "The pairs of classes that most rows are confused between."),
      pairs.figure,
    ];
  }));
}

function diagnosticsSection(page) {
  const { data } = page;
  return headSection(page, "diagnostics", "Diagnostics", (names) => names.flatMap((name) => {
    const { findings, left_out: leftOut } = data.heads[name].diagnosis;
    const shown = Object.entries(findings).filter(([key]) => key !== "confusion").map(([key, finding]) =>
      findingDetails(page, name, key, finding));
    const missing = Object.entries(leftOut).map(([key, why]) => element("p", { class: "muted" }, `${key}: left out; ${why}`));
    return [element("h3", {}, `${page.label(name)} on ${data.split}`), ...shown, ...missing];
  }));
}

// A finding: its table, and when it is opened the pictures of its values per class.
function findingDetails(page, name, key, finding) {
  const pictures = element("div");
  const details = element("details", { ontoggle: () => {
    if (!details.open || pictures.childElementCount || !page.data.classes.counts) return;
    for (const [title, values] of Object.entries(finding.series)) {
      if (!values.some(Number.isFinite)) continue;
      const words = title.replaceAll("_", " ");
      pictures.append(againstCounts(page, `${words} of ${page.label(name)}`, words, () => [[words, values, kindOf(name)]], { height: 220 }).figure);
    }
  } }, element("summary", {}, key.replaceAll("_", " ")), element("p", { class: "muted" }, finding.title),
    plainTable(finding.headings, finding.rows), pictures);
  return details;
}
