// A table that sorts by any column and shows its rows in pages.

const PAGE_ROWS = 25;

// Columns: {title, value(row), text(row), left, kind(row)}; value sorts, text is shown. ``rows()`` gives the rows to show.
function sortedTable({ name, columns, rows, sortBy = -1, descending = false, pageRows = PAGE_ROWS }) {
  let sorted = sortBy, down = descending, shown = pageRows;
  const body = element("tbody"), count = element("span", { class: "muted" });
  const more = element("button", { type: "button", onclick: () => { shown *= 4; refresh(); } }, "More rows");
  const headings = columns.map((column, k) => element("th", { class: column.left ? "left" : null, scope: "col" },
    element("button", { type: "button", onclick: () => sortOn(k) }, column.title)));
  const table = element("table", { "aria-label": name }, element("thead", {}, element("tr", {}, ...headings)), body);
  function sortOn(k) {
    down = sorted === k ? !down : !columns[k].left;
    sorted = k;
    refresh();
  }
  function refresh() {
    let list = [...rows()];
    if (sorted >= 0) list = inOrder(list, columns[sorted].value, down);
    headings.forEach((heading, k) => {
      if (k === sorted) heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    body.replaceChildren(...list.slice(0, shown).map((row) => element("tr", {}, ...columns.map((column) =>
      element("td", { class: [column.left ? "left" : "", column.kind ? column.kind(row) : ""].join(" ").trim() || null },
        column.text(row))))));
    more.hidden = list.length <= shown;
    count.textContent = list.length > shown ? `${shown} of ${list.length} rows ` : "";
  }
  refresh();
  return { figure: element("div", {}, element("div", { class: "scroll" }, table), element("p", {}, count, more)), refresh };
}

// Sorted by a value, those without one last.
function inOrder(list, value, down) {
  const isNone = (one) => one === null || one === undefined || Number.isNaN(one);
  const keyed = list.map((row) => [value(row), row]);
  keyed.sort(([a], [b]) => {
    if (isNone(a) || isNone(b)) return isNone(a) - isNone(b);
    const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return down ? -order : order;
  });
  return keyed.map(([, row]) => row);
}
