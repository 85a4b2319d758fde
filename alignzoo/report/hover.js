// Shows, while the pointer is over a plot, the values of the nearest update in the plot's caption.
"use strict";
function show(number) {
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return number.toExponential(2);
  if (Number.isInteger(number)) return number.toLocaleString("en");
  return size < 1000 ? String(Number(number.toPrecision(4))) : Math.round(number).toLocaleString("en");
}
for (const plot of document.querySelectorAll(".plot[data-x]")) {
  const readout = plot.parentElement.querySelector(".readout");
  const rule = plot.querySelector(".rule");
  const atRest = [...readout.childNodes];
  const [xLow, xHigh] = plot.dataset.x.split(" ").map(Number);
  const [yLow, yHigh] = plot.dataset.y.split(" ").map(Number);
  const lines = [...plot.querySelectorAll("polyline[data-label]")].map((line) => ({
    kind: line.classList.contains("held-out") ? "held-out" : "training",
    points: line.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number)),
  }));
  const span = (text, kind) => {
    const part = document.createElement("span");
    part.className = kind;
    part.textContent = text;
    return part;
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const x = (1000 * (event.clientX - box.left)) / box.width;
    const near = lines.map(({ kind, points }) => ({
      kind,
      point: points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)),
    }));
    if (!near.length) return;
    const stepAt = (point) => Math.round(xLow + (point[0] / 1000) * (xHigh - xLow));
    const step = stepAt(near[0].point);
    const parts = near.map(({ kind, point }) => {
      const value = show(yHigh - (point[1] / 1000) * (yHigh - yLow));
      const where = stepAt(point) === step ? "" : " (at " + stepAt(point) + ")";
      return span(value + where, kind);
    });
    readout.replaceChildren(span("at " + step, "at"), ...parts);
    rule.style.display = "block";
    rule.style.left = near[0].point[0] / 10 + "%";
  });
  plot.addEventListener("pointerleave", () => {
    readout.replaceChildren(...atRest);
    rule.style.display = "none";
  });
}
