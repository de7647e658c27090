// The slider over the chosen value: figures and every class, live and exact.

function sliderSection(page) {
  const place = element("div");
  page.follow(() => place.replaceChildren(...sliderParts(page)));
  return section("slider", "At every value", place);
}

function sliderParts(page) {
  const curve = page.data.curves[page.method];
  if (curve) return curveParts(page, curve);
  const others = Object.keys(page.data.curves).map((name) =>
    element("button", { type: "button", onclick: () => page.choose(name) }, page.label(name)));
  const text = `${page.label(page.method)} has no value to choose along.`;
  return [element("p", {}, others.length ? `${text} These have: ` : text), element("p", { class: "controls" }, ...others)];
}

function curveParts(page, curve) {
  const { classes } = page.data, { values, totals } = curve;
  const symbol = curve.symbol, joint = page.resultOf(curve.split, "joint");
  const reference = joint ? figuresOf(joint.hits, totals, classes.group) : {};
  let position = curve.chosen, hits = hitsAt(curve, position);

  const input = element("input", { type: "range", id: "value", min: 0, max: values.length - 1, step: 1, value: position,
    "aria-label": `${symbol} of ${page.label(page.method)}`, oninput: () => move(Number(input.value)) });
  const value = element("output", { for: "value", id: "value-text" });
  const reset = element("button", { type: "button", onclick: () => move(curve.chosen) }, `chosen: ${short(values[curve.chosen])}`);
  const tiles = Object.fromEntries(page.figures.map((name) => [name, tile(page, name)]));
  const lines = curveChart(page, curve, () => position);
  const table = classTable(page, `every class at this ${symbol}`, [
    { title: "Rows", value: (c) => totals[c], text: (c) => totals[c].toLocaleString("en") },
    { title: "Right", value: (c) => hits[c], text: (c) => hits[c].toLocaleString("en") },
    accuracyColumn("accuracy", () => hits, () => totals),
    ...(joint ? [differenceColumn("to joint", () => hits, () => joint.hits, () => totals)] : []),
  ]);
  const cloud = classes.counts ? againstCounts(page, `accuracy of every class at this ${symbol}`, "accuracy",
    () => [["accuracy", Float64Array.from(hits, (_, c) => share(hits, totals, c)), "method"]], { isPercent: true, height: 240 }) : null;

  function move(to) {
    position = to;
    input.value = to;
    hits = hitsAt(curve, to);
    const figures = figuresOf(hits, totals, classes.group);
    value.textContent = `${symbol} = ${short(values[to])}`;
    input.setAttribute("aria-valuetext", value.textContent);
    for (const name of page.figures) tiles[name].show(figures[name], reference[name]);
    lines.redraw();
    if (cloud) cloud.redraw();
    table.refresh();
  }
  move(position);
  const stops = curve.exact ? `${values.length.toLocaleString("en")} stops, each exact: counted from the interval of ` +
    `${symbol} on which every row is right` : `${values.length} values were tried`;
  const beside = Object.entries(curve.beside).map(([name, text]) => `, ${name} ${text}`).join("");
  return [
    element("p", { class: "muted" }, `${page.label(page.method)}${beside} on ${curve.split}, ${sum(totals).toLocaleString("en")} rows; ${stops}. ` +
      `The value was chosen on these rows, so here its figures are a little too good${curve.oracle ? " (oracle)" : ""}.`),
    element("div", { class: "slider" }, value, input, reset),
    element("div", { class: "tiles" }, ...page.figures.map((name) => tiles[name].figure)),
    lines.figure,
    ...(cloud ? [cloud.figure] : []),
    element("details", { id: "slider-classes" }, element("summary", {}, `Every class at this ${symbol}`), table.figure),
  ];
}

function sum(numbers) {
  return numbers.reduce((total, one) => total + one, 0);
}

// One figure, with its difference to the joint classifier on the same rows.
function tile(page, name) {
  const value = element("strong", { id: `tile-${name}` }), change = element("small");
  const figure = element("div", { class: `tile ${name}` }, element("span", {}, page.heading(name)), value, change);
  function show(figure, reference) {
    value.textContent = percent(figure);
    const known = figure !== null && reference !== undefined && reference !== null;
    change.textContent = known ? `${signed(figure - reference)} to joint` : "";
  }
  return { figure, show };
}

function curveChart(page, curve, position) {
  const along = figuresAlong(curve, page.data.classes.group), values = curve.values;
  const names = page.figures.filter((name) => name !== "top1" && along[name]);
  const numbers = names.flatMap((name) => Array.from(along[name]));
  const log = values[0] > 0 && values[values.length - 1] / values[0] > 50;
  const domain = log ? [values[0], values[values.length - 1]] : extent([values[0], values[values.length - 1]], 0);
  const lines = names.map((name) => ({ line: Array.from(values, (value, k) => [value, along[name][k]]), kind: `line ${name}` }));
  const dots = names.map((name) => ({ kind: name, dots: curve.exact ? [] : Array.from(values, (value, k) =>
    ({ x: value, y: along[name][k], text: `${page.heading(name)} ${percent(along[name][k])} %` })) }));
  return chart({
    name: `accuracy on ${curve.split} against ${curve.symbol} of ${page.label(page.method)}`,
    x: { label: `${curve.symbol} of ${page.label(page.method)}`, domain, log },
    y: { label: `accuracy on ${curve.split}`, percent: true, domain: shareExtent(numbers) },
    legend: names.map((name) => [name, page.heading(name)]),
    marks: () => [{ span: curve.plateau.map((end) => Math.min(Math.max(end === null ? 0 : end, values[0]), values[values.length - 1])), kind: "plateau" },
      ...lines, ...dots, { rule: values[position()], kind: "rule" }],
  });
}
