"use strict";
// Tables that are sorted by their headers' buttons, and searched.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column];
        return cell ? cell.dataset.value ?? cell.textContent.trim() : "";
      };
      const compare = (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === ""); // what is unknown comes last
        const [x, y] = [Number(a), Number(b)];
        const order = Number.isNaN(x) || Number.isNaN(y)
          ? a.localeCompare(b, undefined, { numeric: true }) : x < y ? -1 : Number(x > y);
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
for (const search of document.querySelectorAll("input[type=search]")) {
  const rows = [...document.getElementById(search.getAttribute("aria-controls")).tBodies[0].rows];
  const count = document.getElementById(search.getAttribute("aria-describedby"));
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += Number(!row.hidden);
    }
    count.textContent = `${shown} of ${rows.length}`;
  });
}
