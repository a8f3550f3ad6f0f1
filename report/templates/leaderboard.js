// The leaderboard: a table of all systems with a choice of columns, and the trials behind a number.

let leaderboard = null;

function formatted(cell, column) {
  const own = cell.getValue();
  if (!own) return element("span", { className: "spread" }, "–");
  const button = element("button", { type: "button", title: `n = ${own.n}` }, own.shown);
  button.addEventListener("click", () => explain(cell.getRow().getData(), column, own));
  if (own.best) button.classList.add("best");
  const number = element("div", { className: "number" }, button);
  const marks = own.marks ? element("sup", {}, own.marks) : "";
  number.append(own.rest ? element("span", { className: "spread" }, own.rest, marks) : marks);
  if (own.low === null || own.high === null || column.ends[0] === column.ends[1]) return number;
  // The interval, drawn on the range that the column's intervals span.
  const [least, most] = column.ends;
  const bar = element("i", { className: "interval" });
  const share = (end) => (100 * (end - least)) / (most - least);
  bar.style.setProperty("--from", `${share(own.low)}%`);
  bar.style.setProperty("--to", `${100 - share(own.high)}%`);
  bar.style.setProperty("--at", `${share(own.value)}%`);
  number.append(bar);
  return number;
}

// Compares by value; rows without one always come last.
function byValue(a, b, _row, _other, _column, direction) {
  const [one, two] = [a?.value ?? null, b?.value ?? null];
  const last = direction === "asc" ? 1 : -1;
  if (one === null || two === null) return one === two ? 0 : one === null ? last : -last;
  return one - two;
}

function numbers(column) {
  const all = DATA.rows.map((row) => row.cells[column.key]).filter(Boolean);
  const ends = all.flatMap((cell) => [cell.low ?? cell.value, cell.high ?? cell.value]).filter((end) => end !== null);
  const drawn = { ...column, ends: [Math.min(...ends), Math.max(...ends)] };
  return {
    title: column.unit ? `${column.title} (${column.unit})` : column.title,
    titleFormatter: () => element("span", {}, column.title, column.unit ? element("span", { className: "unit" }, column.unit) : null),
    field: `cells.${column.key}`, visible: column.shown, hozAlign: "right", sorter: byValue,
    headerSortStartingDir: column.better === "lower" ? "asc" : "desc",
    formatter: (cell) => formatted(cell, drawn),
  };
}

function filtered(field, title) {
  const several = new Set(DATA.rows.map((row) => row[field])).size > 1;
  const filter = { headerFilter: "list", headerFilterParams: { valuesLookup: true, clearable: true }, headerFilterPlaceholder: "all" };
  return {
    field, title, visible: several && innerWidth >= 600, ...(several ? filter : {}), maxWidth: 150, cssClass: "broken",
    formatter: (cell) => element("span", {}, cell.getValue()),
  };
}

function makeLeaderboard() {
  const router = {
    field: "router", title: "router", frozen: true, width: innerWidth < 600 ? 140 : undefined, maxWidth: 240,
    formatter: (cell) => {
      const name = swatch(cell.getValue());
      if (chosen.has(cell.getValue())) name.classList.add("picked");
      return name;
    },
    cellClick: (_, cell) => choose(cell.getValue()),
  };
  const columns = [router, filtered("condition", "condition"), filtered("data", "data"), filtered("experts", "experts")];
  const first = DATA.columns[0];
  leaderboard = new Tabulator("#leaderboard-table", {
    data: DATA.rows, columns: [...columns, ...DATA.columns.map(numbers)], layout: "fitDataFill",
    columnDefaults: { headerWordWrap: true, resizable: false }, placeholder: "no finished trial",
    // Otherwise it redraws all rows when it is first scrolled into view, under a reader's click.
    autoResize: false,
    initialSort: first ? [{ column: `cells.${first.key}`, dir: "desc" }] : [],
  });
  const boxes = new Map();
  for (const group of new Set(DATA.columns.map((column) => column.group))) {
    const labels = DATA.columns.filter((column) => column.group === group).map((column) => {
      const [field, box] = [`cells.${column.key}`, element("input", { type: "checkbox", checked: column.shown })];
      box.addEventListener("change", () => { leaderboard.toggleColumn(field); fit(); });
      boxes.set(field, box);
      return element("label", {}, box, ` ${column.title}${column.unit ? ` (${column.unit})` : ""}`);
    });
    $("#columns").append(element("fieldset", {}, element("legend", {}, group), ...labels));
  }
  for (const suite of new Set(DATA.columns.map((column) => column.suite).filter(Boolean))) {
    $("#by-suite").append(element("option", { value: suite }, suite));
  }
  $("#by-suite").addEventListener("change", showSuite);
  leaderboard.on("columnVisibilityChanged", (column, isVisible) => {
    if (boxes.has(column.getField())) boxes.get(column.getField()).checked = isVisible;
  });
  return leaderboard;
}

// All columns of a suite, or those that the table begins with.
function showSuite() {
  const suite = $("#by-suite").value;
  for (const column of DATA.columns) {
    const shown = suite ? column.suite === suite : column.shown;
    leaderboard.getColumn(`cells.${column.key}`)[shown ? "show" : "hide"]();
  }
  fit();
  if (!suite) hideWhatDoesNotFit();
}

function isTooWide() {
  const holder = $("#leaderboard-table .tabulator-tableholder");
  return holder.scrollWidth > holder.clientWidth;
}

// If the columns do not fit side by side, intervals go below their numbers.
function fit() {
  for (const stacked of [false, true]) {
    $("#leaderboard-table").classList.toggle("stacked", stacked);
    leaderboard.redraw(true); // row heights depend on how names wrap at the current widths
    if (!isTooWide()) return;
  }
}

// Initially shows as many columns as fit; a narrow screen scrolls. The others are a click away.
function hideWhatDoesNotFit() {
  const columns = leaderboard.getColumns().filter((column) => column.isVisible());
  for (const column of innerWidth < 600 ? [] : columns.slice(5).reverse()) {
    if (!isTooWide()) return;
    column.hide();
  }
}

// Shows the trials behind a number, with curves, logs and failures, and how to reproduce it.
function explain(row, column, cell) {
  const place = $("#behind");
  const own = DATA.trials.filter((each) => each.router === row.router && each.condition === row.condition);
  const trials = cell.trials.length ? cell.trials.map((number) => DATA.trials[number]) : own;
  const failed = own.filter((each) => each.status !== "done");
  const heads = ["seed", column.title, "status", "code", "machine", "trial", "log"];
  const line = (each, number) => element("tr", {},
    ...[each.seed, cell.values[number] ?? "", each.status, each.code, each.machine, each.id].map((text) => element("td", {}, String(text))),
    element("td", {}, each.address ? element("a", { href: each.address }, each.log) : each.log));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", {}, head)))),
    element("tbody", {}, ...trials.map(line)));
  const name = trials[0]?.name ?? "";
  const suite = column.suite ? ` ${column.suite}` : "";
  const command = `python bench.py run${suite} --preset preset.yaml --routers ${name} --study again --home again`;
  const curves = element("div", { className: "chart" });
  const files = [...new Set(trials.map((each) => each.source))];
  const seedsOf = (file) => `, seed ${trials.filter((each) => each.source === file).map((each) => each.seed).join(", ")}`;
  const folded = (title, text) => (text ? element("details", {}, element("summary", {}, title), element("pre", {}, text)) : null);
  const parts = [
    element("h3", {}, `${cell.shown}${cell.rest} ${column.unit.split(",")[0]} · ${row.router} · ${column.title}`),
    element("div", { className: "scroll" }, table),
    curves,
    ...failed.map((each) => element("p", { className: "failed" }, `Seed ${each.seed}: ${each.status}. ${each.reason}`)),
    element("p", { className: "label" }, `Make it again, with the code ${trials[0]?.code ?? ""} and the file preset.yaml of this report:`),
    element("pre", {}, command),
    ...files.map((file) => folded(`The file of ${row.router}${files.length > 1 ? seedsOf(file) : ""}`, DATA.sources[file])),
    ...trials.map((each) => folded(`End of the log, seed ${each.seed}`, each.tail)),
  ];
  place.replaceChildren(...parts.filter(Boolean));
  place.hidden = false;
  if (trials.some((each) => each.curve.length > 1)) draw(curves, "trials", DATA, { trials });
  place.scrollIntoView({ block: "nearest" });
}
