// Elements of HTML and SVG. Texts become text nodes and are never parsed, so that names of classes stay names.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// A section of the page, which the list of contents finds.
function section(id, title, ...children) {
  return element("section", { id }, element("h2", {}, title), ...children);
}

// A table of texts; the first ``left`` columns are aligned left.
function plainTable(headings, rows, left = 1) {
  const cells = (row, tag) =>
    row.map((text, k) => element(tag, { class: k < left ? "left" : null, scope: tag === "th" ? "col" : null }, text));
  return element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...cells(headings, "th"))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row, "td"))))));
}

// A choice of one of several values: [value, text] pairs.
function choice(label, pairs, chosen, use) {
  const options = pairs.map(([value, text]) => element("option", { value, selected: value === chosen ? "" : null }, text));
  const select = element("select", { onchange: () => use(select.value) }, ...options);
  return element("label", { class: "choice" }, `${label} `, select);
}
