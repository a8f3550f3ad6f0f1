// The first screen and the linked charts, from the data of `report/board.py`.

const DATA = dataOf("board-data");
const chosen = new Set();
const views = {};

function swatch(name) {
  const router = DATA.routers.find((each) => each.name === name);
  const colour = router ? router.colour : "transparent";
  return element("span", { className: "router" }, square(colour), element("span", {}, name));
}

// ---- linked selection: choosing a router anywhere chooses it everywhere

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

// ---- start

for (const router of DATA.routers) {
  const chip = element("button", { type: "button", className: "chip", value: router.name }, swatch(router.name));
  chip.addEventListener("click", () => choose(router.name));
  $("#chips")?.append(chip);
}
// The first cost that distinguishes the routers is shown initially; costs without data are removed.
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
  if (leaderboard) fit();
  drawLoads();
});
const built = DATA.rows.length ? new Promise((done) => makeLeaderboard().on("tableBuilt", () => {
  fit();
  hideWhatDoesNotFit();
  done();
})) : null;
// After this, nothing moves by itself.
const ready = Promise.all([built, drawAll(), drawLoads()]).then(() => { document.body.dataset.drawn = "all"; });

// ---- what a reader has chosen, kept when a live page replaces this one

const selects = () => [...document.querySelectorAll("#by-condition, #by-cost, #by-suite")];

function boardState() {
  return {
    chosen: [...chosen],
    selected: selects().map((each) => [each.id, each.value]),
    sort: (leaderboard?.getSorters() ?? []).map(({ field, dir }) => ({ column: field, dir })),
    filters: leaderboard?.getHeaderFilters() ?? [],
  };
}

// Restores the choices, except for what the new page does not have.
async function resumeBoard({ chosen: names, selected, sort, filters }) {
  await ready;
  for (const { name } of DATA.routers) if (names.includes(name)) chosen.add(name);
  for (const select of selects()) {
    const before = selected.find(([id]) => id === select.id)?.[1];
    if ([...select.options].some((option) => option.value === before)) select.value = before;
  }
  if (leaderboard) {
    if ($("#by-suite").value) showSuite();
    const fields = leaderboard.getColumns().map((column) => column.getField());
    leaderboard.setSort(sort.filter(({ column }) => fields.includes(column)));
    for (const { field, value } of filters) {
      if (DATA.rows.some((row) => row[field] === value)) leaderboard.setHeaderFilterValue(field, value);
    }
  }
  await drawAll();
  update();
}
