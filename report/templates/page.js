// Shared by the scripts of the page; its tables: sorting, and the trials behind a number.

const $ = (selector, within = document) => within.querySelector(selector);
const dataOf = (id) => JSON.parse(document.getElementById(id).textContent);

// An element with text, never markup, since names of routers, studies and classes are not trusted.
function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

function square(colour) {
  const made = element("i", { className: "swatch" });
  made.style.setProperty("--colour", colour);
  return made;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("number");
      const value = (row) => row.cells[index].dataset.value ?? row.cells[index].textContent;
      const compare = (a, b) => {
        if (!numeric) return value(a).localeCompare(value(b), "en", { numeric: true });
        return parseFloat(value(a)) - parseFloat(value(b));
      };
      const known = (row) => !numeric || !Number.isNaN(parseFloat(value(row)));
      const rows = [...table.tBodies[0].rows];
      const sorted = rows.filter(known).sort((a, b) => (up ? compare(a, b) : compare(b, a)));
      table.tBodies[0].append(...sorted, ...rows.filter((row) => !known(row)));
    });
  });
}

// Clicking a number shows only the rows of its trials, in the tables of trials and layers.
const lists = [...document.querySelectorAll("#table-trials, #table-layers")];

function showAll(list) {
  list.querySelector(".chosen").hidden = true;
  for (const row of list.querySelectorAll("tbody tr")) row.hidden = false;
}

// A number with its place: in a table, the row and the heading; elsewhere, the text around it.
function nameOf(number) {
  const cell = number.closest("td");
  if (!cell) return number.closest("p").innerText.replace(/\s+/g, " ").trim();
  const head = cell.closest("table").tHead.rows[0].cells[cell.cellIndex];
  const row = cell.parentElement.cells[0].innerText.trim();
  return `${cell.innerText.trim()} (${row}, ${head.innerText.replace(/\s+/g, " ").trim()})`;
}

for (const list of lists) {
  list.querySelector(".chosen button").addEventListener("click", () => showAll(list));
}
for (const number of document.querySelectorAll("a[data-behind]")) {
  number.addEventListener("click", () => {
    const behind = new Set(number.dataset.behind.split(" "));
    const name = nameOf(number);
    for (const list of lists) {
      showAll(list);
      const rows = [...list.querySelectorAll("tbody tr")];
      if (!rows.some((each) => behind.has(each.dataset.trial))) continue;
      for (const each of rows) each.hidden = !behind.has(each.dataset.trial);
      list.querySelector(".chosen").hidden = false;
      list.querySelector(".chosen span").textContent = `Behind ${name}.`;
      const folded = list.closest("details");
      if (folded) folded.open = true;
    }
  });
}
