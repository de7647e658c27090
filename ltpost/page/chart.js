// Charts in SVG, drawn anew at the width that there is.

const MARGIN = { left: 62, right: 12, top: 10, bottom: 42 };

// A chart. ``marks()`` gives what is drawn:
//   {line: [[x, y], …], kind}           a line
//   {dots: [{x, y, text}, …], kind}     points, each with a text that shows beside it
//   {rule: x, kind}                     a vertical line
//   {span: [from, to], kind}            a vertical band
// ``kind`` is a class of the style. Axes: {label, log, domain, text}.
function chart({ name, x, y, height = 300, marks, legend = [] }) {
  const canvas = svg("svg", { role: "img", "aria-label": name, height });
  const tip = element("div", { class: "tip", hidden: "" });
  const entries = legend.map(([kind, text]) => element("li", { class: kind }, text));
  const figure = element("figure", { class: "chart" }, element("ul", { class: "legend" }, ...entries), canvas, tip);
  let dots = [];
  function redraw() {
    const width = figure.clientWidth;
    if (!width) return;
    const across = scale(x, [MARGIN.left, width - MARGIN.right]);
    const up = scale(y, [height - MARGIN.bottom, MARGIN.top]);
    canvas.setAttribute("width", width);
    canvas.replaceChildren(...axes(x, y, across, up, width, height));
    dots = [];
    for (const mark of marks()) {
      canvas.append(...drawnMark(mark, across, up, height));
      for (const dot of mark.dots || []) if (dot.text) dots.push({ ...dot, left: across(dot.x), top: up(dot.y) });
    }
  }
  canvas.addEventListener("pointermove", (event) => showTip(event, canvas, tip, dots));
  canvas.addEventListener("pointerdown", (event) => showTip(event, canvas, tip, dots));
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  new ResizeObserver(redraw).observe(figure);
  return { figure, redraw };
}

function drawnMark(mark, across, up, height) {
  const attributes = { class: mark.kind };
  if (mark.line) {
    const points = mark.line.filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b));
    return [svg("polyline", { ...attributes, points: points.map(([a, b]) => `${round(across(a))},${round(up(b))}`).join(" ") })];
  }
  if (mark.dots) {
    // all dots of a mark are one path of lines without length and with round ends
    const path = mark.dots.map((dot) => `M${round(across(dot.x))} ${round(up(dot.y))}h0`).join("");
    const labels = dotLabels(mark.dots.filter((dot) => dot.label).map((dot) => ({ text: dot.label, x: across(dot.x), y: up(dot.y) })));
    return [svg("path", { class: `dots ${mark.kind}`, d: path }), ...labels];
  }
  if (mark.span) {
    const [from, to] = mark.span.map(across);
    return [svg("rect", { ...attributes, x: from, width: Math.max(to - from, 1), y: MARGIN.top, height: height - MARGIN.top - MARGIN.bottom })];
  }
  const at = across(mark.rule);
  return [svg("line", { ...attributes, x1: at, x2: at, y1: MARGIN.top, y2: height - MARGIN.bottom })];
}

// Names beside dots: right, left, above or below, where no dot and no other name is; where there is no room, none.
function dotLabels(dots) {
  const boxes = dots.map(({ x, y }) => [x - 5, y - 5, x + 5, y + 5]), nodes = [];
  for (const { text, x, y } of dots) {
    const half = 3.5 * text.length;
    const places = [[x + 8 + half, y], [x - 8 - half, y], [x, y - 14], [x, y + 14]];
    const free = places.map(([a, b]) => [a - half, b - 7, a + half, b + 7]).find((box) => boxes.every((other) =>
      box[2] < other[0] || other[2] < box[0] || box[3] < other[1] || other[3] < box[1]));
    if (!free) continue;
    boxes.push(free);
    nodes.push(svg("text", { class: "label", x: (free[0] + free[2]) / 2, y: free[3] - 3, "text-anchor": "middle" }, text));
  }
  return nodes;
}

function round(value) {
  return Math.round(10 * value) / 10;
}

// The function from values to pixels.
function scale({ domain, log }, [from, to]) {
  const [low, high] = log ? domain.map(Math.log) : domain;
  return (value) => from + (((log ? Math.log(value) : value) - low) / (high - low || 1)) * (to - from);
}

function axes(x, y, across, up, width, height) {
  const bottom = height - MARGIN.bottom, right = width - MARGIN.right, nodes = [];
  for (const value of ticks(y, (bottom - MARGIN.top) / 45)) {
    nodes.push(svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: up(value), y2: up(value) }));
    nodes.push(svg("text", { x: MARGIN.left - 6, y: up(value) + 4, "text-anchor": "end" }, tickText(y, value)));
  }
  for (const value of ticks(x, (right - MARGIN.left) / 60)) {
    nodes.push(svg("line", { class: "grid", x1: across(value), x2: across(value), y1: MARGIN.top, y2: bottom }));
    nodes.push(svg("text", { x: across(value), y: bottom + 16, "text-anchor": "middle" }, tickText(x, value)));
  }
  const middle = (bottom + MARGIN.top) / 2;
  nodes.push(svg("text", { class: "axis", x: (MARGIN.left + right) / 2, y: height - 6, "text-anchor": "middle" }, x.label));
  nodes.push(svg("text", { class: "axis", transform: `translate(12 ${middle}) rotate(-90)`, "text-anchor": "middle" }, y.label));
  return nodes;
}

function tickText({ percent: isPercent }, value) {
  return isPercent ? `${Number((100 * value).toPrecision(6))} %` : value >= 1e4 ? value.toLocaleString("en") : String(value);
}

// Round values inside of the domain of an axis, about ``count`` of them.
function ticks({ domain: [low, high], log }, count) {
  if (log && high / low > 5) {
    const steps = Math.log10(high / low) * 3 > count ? [1] : [1, 2, 5], found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const step of steps) found.push(Number((step * 10 ** power).toPrecision(1)));
    return found.filter((value) => low <= value && value <= high);
  }
  const rough = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999) || 1;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(8)));
  return found;
}

// The least and the greatest of finite numbers, with a little room; shares stay between 0 and 1.
function shareExtent(numbers, room) {
  const [low, high] = extent(numbers, room);
  return [Math.max(low, 0), Math.min(high, 1)];
}

function extent(numbers, room = 0.04) {
  let low = Infinity, high = -Infinity;
  for (const value of numbers) if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  const more = room * (high > low ? high - low : Math.abs(high) || 1);
  return [low - more, high + more];
}

// The text of the point that is nearest to the pointer.
function showTip(event, canvas, tip, dots) {
  const box = canvas.getBoundingClientRect();
  const left = event.clientX - box.left, top = event.clientY - box.top;
  let nearest = null, least = 20 ** 2;
  for (const dot of dots) {
    const distance = (dot.left - left) ** 2 + (dot.top - top) ** 2;
    if (distance < least) { nearest = dot; least = distance; }
  }
  tip.hidden = nearest === null;
  if (nearest === null) return;
  tip.textContent = nearest.text;
  tip.style.top = `${canvas.offsetTop + nearest.top + 10}px`;
  tip.style.left = `${Math.min(nearest.left, box.width - tip.offsetWidth)}px`;
}
