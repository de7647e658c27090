// The numbers of the page: arrays are unpacked, hits become figures, figures become text.

const GROUPS = ["many", "medium", "few"];
const FIGURES = [...GROUPS, "all", "top1"];
const ARRAYS = { Uint8Array, Int8Array, Uint16Array, Int16Array, Uint32Array, Int32Array, Float64Array };

// The JSON of the page, every packed array in it unpacked.
async function readData() {
  return unpacked(JSON.parse(document.getElementById("data").textContent));
}

async function unpacked(value) {
  if (Array.isArray(value)) return Promise.all(value.map(unpacked));
  if (value === null || typeof value !== "object") return value;
  if ("zlib" in value) return unpackArray(value);
  const pairs = await Promise.all(Object.entries(value).map(async ([key, part]) => [key, await unpacked(part)]));
  const result = Object.fromEntries(pairs);
  return "levels" in result ? fromLevels(result) : result;
}

async function unpackArray({ array, zlib }) {
  const bytes = Uint8Array.from(atob(zlib), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new ARRAYS[array](await new Response(stream).arrayBuffer());
}

// Numbers that are only drawn; NaN where there is none.
function fromLevels({ low, high, levels }) {
  return Float64Array.from(levels, (level) => (level > 65534 ? NaN : low + (level / 65534) * (high - low)));
}

// Right rows of every class at a position of a curve. Changes are sorted by class, positions are given as gaps.
function hitsAt(curve, position) {
  const hits = new Int32Array(curve.totals.length);
  eachChange(curve, (c, at, amount) => {
    if (at <= position) hits[c] += amount;
  });
  return hits;
}

function eachChange(curve, use) {
  const { per_class: perClass, gaps, amounts } = curve.changes;
  let k = 0;
  perClass.forEach((count, c) => {
    for (let at = 0, end = k + count; k < end; k++) {
      at += gaps[k];
      use(c, at, amounts[k]);
    }
  });
}

// What a right row of each class adds to each figure, and which figures there are.
function rowWeights(totals, group) {
  const present = Array.from(totals, (total) => total > 0);
  const rows = totals.reduce((sum, total) => sum + total, 0);
  const weights = {};
  FIGURES.forEach((name, number) => {
    const inside = (c) => present[c] && (number > 2 || (group && group[c] === number));
    const classes = present.filter((_, c) => inside(c)).length;
    if (classes) weights[name] = (c) => (!inside(c) ? 0 : name === "top1" ? 1 / rows : 1 / (classes * totals[c]));
  });
  return weights;
}

// Figures from right rows per class: mean over the classes of each group and over all, and the share of rows.
function figuresOf(hits, totals, group) {
  const figures = {};
  for (const name of FIGURES) {
    const inside = (c) => totals[c] > 0 && (name === "all" || (group && group[c] === GROUPS.indexOf(name)));
    let sum = 0, classes = 0;
    for (let c = 0; c < totals.length; c++) if (inside(c)) { sum += hits[c] / totals[c]; classes++; }
    figures[name] = classes ? sum / classes : null;
  }
  const total = (numbers) => numbers.reduce((sum, one) => sum + one, 0);
  figures.top1 = total(hits) / total(totals);
  return figures;
}

// Figures at every position of a curve, each an array.
function figuresAlong(curve, group) {
  const weights = rowWeights(curve.totals, group);
  const along = Object.fromEntries(Object.keys(weights).map((name) => [name, new Float64Array(curve.values.length)]));
  eachChange(curve, (c, at, amount) => {
    for (const name in weights) along[name][at] += amount * weights[name](c);
  });
  for (const figure of Object.values(along)) for (let k = 1; k < figure.length; k++) figure[k] += figure[k - 1];
  return along;
}

// A fraction as percent with two decimals, as the library writes it: rounded twice, ties to the even digit.
function percent(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const exact = Number((100 * value).toFixed(9));
  const below = Math.floor(100 * exact);
  const isTie = Math.abs(8 * exact) % 2 === 1; // such as 12.125
  const text = (isTie ? (below + (below % 2 === 0 ? 0 : 1)) / 100 : exact).toFixed(2);
  return text === "-0.00" ? "0.00" : text;
}

function signed(value) {
  const text = percent(value);
  return text === "–" || text.startsWith("-") ? text : `+${text}`;
}

// The value of a parameter in few digits.
function short(value) {
  return String(Number(value.toPrecision(4)));
}

function className(classes, c) {
  return classes.names ? classes.names[c] : `class ${c}`;
}
