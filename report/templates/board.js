// The first screen, the leaderboard and the linked charts, from the data of `report/board.py`.

const DATA = JSON.parse(document.getElementById("board-data").textContent);
const $ = (selector, within = document) => within.querySelector(selector);
const chosen = new Set();
const views = {};

// An element with text, never markup: names of routers, studies and classes are anybody's.
function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

function swatch(name) {
  const router = DATA.routers.find((each) => each.name === name);
  const square = element("i", { className: "swatch" });
  square.style.setProperty("--colour", router ? router.colour : "transparent");
  return element("span", { className: "router" }, square, element("span", {}, name));
}

// ---- linked selection: a router chosen anywhere is chosen everywhere

function choose(name) {
  if (!chosen.delete(name)) chosen.add(name);
  update();
}

function update() {
  const names = [...chosen];
  for (const view of Object.values(views)) view.signal("chosen", names).runAsync();
  for (const chip of document.querySelectorAll(".chip")) chip.setAttribute("aria-pressed", chosen.has(chip.value));
  $("#all-routers").hidden = names.length === 0;
  if (leaderboard) leaderboard.getRows().forEach((row) => row.reformat());
  drawLoads();
}

async function show(name, options) {
  const place = $(`#chart-${name}`);
  if (!place) return;
  const view = await draw(place, name, DATA, options);
  view.addEventListener("click", (_, item) => item && item.datum && item.datum.router && choose(item.datum.router));
  views[name] = view.signal("chosen", [...chosen]);
  await view.runAsync();
}

const value = (id) => ($(id) ? $(id).value : "");
const condition = () => ($("#by-condition") ? value("#by-condition") : DATA.conditions[0] ?? "");

function drawAll() {
  const [cost, label] = [value("#by-cost"), $("#by-cost")?.selectedOptions[0]?.text ?? ""];
  const drawn = [
    show("ranking", { condition: condition() }),
    show("cost", { condition: condition(), cost, label }),
    show("training", { condition: condition() }),
  ];
  for (const finding of document.querySelectorAll(".finding[data-condition]")) {
    finding.hidden = finding.dataset.condition !== condition() && DATA.conditions.length > 1;
  }
  return Promise.all(drawn);
}

function drawLoads() {
  const place = $("#chart-loads");
  if (!place) return;
  const under = DATA.loads.filter((each) => each.condition === condition() || !each.condition);
  const names = [...new Set(under.map((each) => each.router))];
  const picked = names.filter((name) => chosen.has(name));
  const routers = (picked.length ? picked : names).slice(0, 6);
  const shares = [...new Set(under.map((each) => each.share))].sort((a, b) => a - b);
  const slider = $("#load-share");
  if (slider.max !== String(shares.length - 1)) [slider.max, slider.value] = [shares.length - 1, shares.length - 1];
  const share = shares[slider.value] ?? 100;
  $("#load-share-shown").textContent = `${share} %`;
  const columns = place.clientWidth > 700 ? 3 : 1;
  const width = Math.max((place.clientWidth - 120) / columns - 60, 120);
  return draw(place, "loads", { ...DATA, loads: under }, { routers, share, columns, width });
}

// ---- the leaderboard

let leaderboard = null;

function formatted(cell, column) {
  const own = cell.getValue();
  if (!own) return element("span", { className: "spread" }, "–");
  const button = element("button", { type: "button", title: `n = ${own.n}` }, own.shown);
  button.addEventListener("click", () => explain(cell.getRow().getData(), column, own));
  if (own.best) button.classList.add("best");
  const number = element("div", { className: "number" }, button);
  if (own.rest) number.append(element("span", { className: "spread" }, own.rest));
  if (own.marks) number.append(element("sup", {}, own.marks));
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

// By value, where what has none stays below.
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
  return { field, title, visible: several && innerWidth >= 600, ...(several ? filter : {}), formatter: (cell) => element("span", {}, cell.getValue()) };
}

function makeLeaderboard() {
  const router = {
    field: "router", title: "router", frozen: true, width: innerWidth < 600 ? 140 : undefined,
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
    // By itself it draws all rows again when it is first scrolled to, under a reader's click.
    autoResize: false,
    initialSort: first ? [{ column: `cells.${first.key}`, dir: "desc" }] : [],
  });
  const suites = [...new Set(DATA.columns.map((column) => column.suite))];
  for (const suite of suites) {
    const boxes = DATA.columns.filter((column) => column.suite === suite).map((column) => {
      const box = element("input", { type: "checkbox", checked: column.shown });
      box.addEventListener("change", () => leaderboard.toggleColumn(`cells.${column.key}`));
      return element("label", {}, box, ` ${column.title}`);
    });
    $("#columns").append(element("fieldset", {}, element("legend", {}, suite), ...boxes));
  }
  return leaderboard;
}

// What is behind a number: its trials with their curves, logs and failures, and how to make it again.
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
  const suite = column.suite === "other" ? "" : ` ${column.suite}`;
  const command = `python bench.py run${suite} --preset preset.yaml --routers ${name} --study again --home again`;
  const curves = element("div", { className: "chart" });
  const folded = (title, text) => (text ? element("details", {}, element("summary", {}, title), element("pre", {}, text)) : null);
  const parts = [
    element("h3", {}, `${cell.shown}${cell.rest} ${column.unit.split(",")[0]} · ${row.router} · ${column.title}`),
    element("div", { className: "scroll" }, table),
    curves,
    ...failed.map((each) => element("p", { className: "failed" }, `Seed ${each.seed}: ${each.status}. ${each.reason}`)),
    element("p", { className: "label" }, `Make it again, with the code ${trials[0]?.code ?? ""} and the file preset.yaml of this report:`),
    element("pre", {}, command),
    folded(`The file of ${row.router}, newest version`, DATA.sources[name]),
    ...trials.map((each) => folded(`End of the log, seed ${each.seed}`, each.tail)),
  ];
  place.replaceChildren(...parts.filter(Boolean));
  place.hidden = false;
  if (trials.some((each) => each.curve.length > 1)) draw(curves, "trials", DATA, { trials });
  place.scrollIntoView({ block: "nearest" });
}

// ---- start

for (const router of DATA.routers) {
  const chip = element("button", { type: "button", className: "chip", value: router.name }, swatch(router.name));
  chip.addEventListener("click", () => choose(router.name));
  $("#chips")?.append(chip);
}
// The first cost that tells the routers apart is shown first; one that nothing has, never.
if ($("#by-cost")) {
  const options = [...$("#by-cost").options];
  const costs = (option) => DATA.runs.map((run) => run[option.value]).filter((cost) => cost !== null);
  options.filter((option) => !costs(option).length).forEach((option) => option.remove());
  const apart = options.find((option) => Math.max(...costs(option)) > 1.05 * Math.min(...costs(option)));
  if (apart) apart.selected = true;
}
$("#all-routers")?.addEventListener("click", () => { chosen.clear(); update(); });
for (const id of ["#by-condition", "#by-cost"]) $(id)?.addEventListener("change", () => { drawAll(); drawLoads(); });
$("#load-share")?.addEventListener("input", drawLoads);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawAll(); drawLoads(); });
let width = innerWidth;
addEventListener("resize", () => {
  if (width === innerWidth) return;
  width = innerWidth;
  leaderboard?.redraw(true);
  drawLoads();
});
const built = DATA.rows.length ? new Promise((done) => makeLeaderboard().on("tableBuilt", () => {
  leaderboard.redraw(true); // rows are as high as names need in the width that columns have now
  done();
})) : null;
// From then on nothing moves by itself.
Promise.all([built, drawAll(), drawLoads()]).then(() => { document.body.dataset.drawn = "all"; });
