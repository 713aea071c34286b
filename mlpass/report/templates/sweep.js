"use strict";
// Tables that are sorted by their headers' buttons, and searched.
const sort = (table, column, down) => {
  const body = table.tBodies[0];
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
};
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down);
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
// One config at a time: its command, and what it does to each layer.
const picked = document.getElementById("picked");
if (picked) {
  const views = JSON.parse(document.getElementById("views").textContent);
  const [layers, command, copy, copied, without] =
    ["layers", "command", "copy", "copied", "no-command"].map((id) => document.getElementById(id));
  const show = () => {
    const view = views[picked.value];
    command.textContent = view.command ?? "";
    command.hidden = copy.hidden = view.command === null;
    without.hidden = view.command !== null;
    copied.textContent = "";
    for (const row of layers.tBodies[0].rows) {
      const layer = view.layers[row.dataset.layer];
      for (const cell of row.querySelectorAll("[data-cell]")) {
        const { text, value, bars } = layer[cell.dataset.cell];
        cell.querySelector(".told").textContent = text;
        if (value !== undefined) cell.dataset.value = value;
        if (bars) {
          cell.firstElementChild.style.setProperty("--before", bars[0]);
          cell.firstElementChild.style.setProperty("--after", bars[1]);
        }
      }
    }
    const headers = [...layers.tHead.rows[0].cells];
    const column = headers.findIndex((header) => header.hasAttribute("aria-sort"));
    if (column >= 0) sort(layers, column, headers[column].getAttribute("aria-sort") === "descending");
  };
  picked.addEventListener("change", show);
  copy.addEventListener("click", async () => {
    getSelection().selectAllChildren(command);
    try {
      await navigator.clipboard.writeText(command.textContent);
      copied.textContent = "Copied";
    } catch { // a page that is not from a server may not be let near the clipboard
      copied.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it from here";
    }
  });
  show();
}
