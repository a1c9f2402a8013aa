// Draws the plots of the overview from samples.json. The page is complete without it.
"use strict";

(() => {
  const SECONDS = 15;
  const drawn = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const options = (element) => {
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    return {
      width: element.clientWidth,
      height: element.clientHeight,
      legend: { show: false },
      cursor: { show: false },
      scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
      axes: [axis, { ...axis, size: 60 }],
      series: [{}, { stroke: colour("--strong"), fill: colour("--line"), width: 2, points: { show: false } }],
    };
  };

  const draw = (columns) => {
    while (drawn.length) drawn.pop().destroy();
    for (const element of document.querySelectorAll("[data-plot]")) {
      drawn.push(new uPlot(options(element), [columns.at, columns[element.dataset.plot]], element));
    }
  };

  const load = async () => {
    const answer = await fetch("/console/samples.json", { headers: { Accept: "application/json" } }).catch(() => null);
    if (answer && answer.ok && !answer.redirected) draw(await answer.json());
  };

  load();
  setInterval(load, SECONDS * 1000);
  window.addEventListener("resize", load);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", load);
})();
