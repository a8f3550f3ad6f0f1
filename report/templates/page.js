for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("number");
      const value = (row) => row.cells[index].dataset.value;
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
