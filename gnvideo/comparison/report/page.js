"use strict";

// Okabe and Ito's colours; dark ones are lifted where they would sink into the page.
const COLOURS = {
  light: {
    blue: "#0072B2", vermillion: "#D55E00", green: "#009E73", purple: "#CC79A7",
    orange: "#E69F00", sky: "#56B4E9", yellow: "#B8A800",
    ink: "#1b1f24", axis: "#8b949e", grid: "#e7eaee", surface: "#ffffff",
  },
  dark: {
    blue: "#56B4E9", vermillion: "#F0803C", green: "#1FBF93", purple: "#D98FB8",
    orange: "#E69F00", sky: "#8CCBF2", yellow: "#F0E442",
    ink: "#e6e9ed", axis: "#6b747e", grid: "#2a3037", surface: "#14171b",
  },
};
const darkness = window.matchMedia("(prefers-color-scheme: dark)");

function resolveColours(value, colours) {
  if (typeof value === "string") return value.startsWith("@") ? colours[value.slice(1)] : value;
  if (Array.isArray(value)) return value.map((item) => resolveColours(item, colours));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, resolveColours(item, colours)]),
  );
}

function drawPlots(plots) {
  const colours = COLOURS[darkness.matches ? "dark" : "light"];
  for (const [element, figure] of plots) {
    const { data, layout } = resolveColours(figure, colours);
    layout.font.family = getComputedStyle(document.body).fontFamily;
    Plotly.react(element, data, layout, {
      displaylogo: false, displayModeBar: false,
    });
  }
}

function readCell(row, column) {
  const text = row.cells[column].textContent;
  const number = Number.parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? text : number;
}

function compareCells(first, second) {
  if (typeof first === typeof second) {
    return typeof first === "number" ? first - second : first.localeCompare(second);
  }
  return typeof first === "number" ? -1 : 1;
}

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => sign * compareCells(readCell(a, column), readCell(b, column)));
      table.tBodies[0].append(...rows);
    });
  });
}

const plots = [...document.querySelectorAll(".plot")].map((element) => {
  const figure = JSON.parse(element.querySelector("script").textContent);
  element.replaceChildren();
  return [element, figure];
});
drawPlots(plots);
// A plot follows its own box: the window may stay when fonts, zoom or a sidebar change it.
const resizing = new ResizeObserver((entries) => {
  entries.forEach((entry) => Plotly.Plots.resize(entry.target));
});
plots.forEach(([element]) => resizing.observe(element));
darkness.addEventListener("change", () => drawPlots(plots));
document.querySelectorAll("table.sortable").forEach(makeSortable);
