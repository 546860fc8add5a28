// What a page does by itself: the log as it grows, the last minute, the slider, the keyboard.
"use strict";

const MOST_ROWS = 200;
const byId = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const path = (key) => key.split("/").map(encodeURIComponent).join("/");

function cell(row, child, className) {
  const made = element("td", undefined, className ? { class: className } : {});
  if (child instanceof Node) made.append(child);
  else made.textContent = child ?? "";
  row.append(made);
}

function rowOf(entry, space) {
  const row = element("tr", undefined, { class: "new", "data-position": entry.position });
  const short = JSON.stringify(entry.value) ?? "";
  cell(row, String(entry.position), "num");
  cell(row, element("time", entry.at.slice(11, 23), { datetime: entry.at }));
  cell(row, element("a", entry.agent, { href: `${space}?agent=${encodeURIComponent(entry.agent)}` }));
  cell(row, element("span", entry.kind, { class: `kind ${entry.kind}` }));
  cell(row, element("a", entry.key, { class: "key", href: `${space}/key/${path(entry.key)}` }));
  cell(row, String(entry.version), "num");
  cell(row, entry.kind === "delete" ? "" : element("code", short.length > 120 ? short.slice(0, 119) + "…" : short), "value");
  return row;
}

function followLog(table) {
  const { live, agent, kind, space } = table.dataset;
  const body = table.tBodies[0];
  let held = null; // what came while it is paused
  let waiting = [];
  const show = () => {
    const rows = waiting.splice(0).slice(-MOST_ROWS).map((entry) => rowOf(entry, space));
    body.prepend(...rows.reverse());
    while (body.rows.length > MOST_ROWS) body.lastElementChild.remove();
    document.querySelectorAll("main .empty").forEach((each) => each.remove());
  };
  const source = new EventSource(live);
  source.addEventListener("entry", (event) => {
    const entry = JSON.parse(event.data);
    if ((agent && entry.agent !== agent) || (kind && entry.kind !== kind)) return;
    if (held) {
      held.push(entry);
      if (held.length > MOST_ROWS) held.shift();
      return;
    }
    if (!waiting.length) requestAnimationFrame(show);
    waiting.push(entry);
  });
  const button = byId("pause");
  button?.addEventListener("click", () => {
    const paused = held === null;
    if (!paused) {
      waiting.push(...held);
      show();
    }
    held = paused ? [] : null;
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Pause";
  });
}

function chartIn(place) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
  const bars = uPlot.paths.bars({ size: [0.8, 12] });
  return new uPlot({
    width: place.clientWidth, height: place.clientHeight, legend: { show: false }, cursor: { show: false },
    padding: [8, 8, 0, 0],
    scales: { y: { range: (_, low, high) => [0, Math.max(high, 4)] } },
    axes: [{ ...axis, grid: { show: false }, values: (_, times) => times.map((t) => new Date(t * 1000).toISOString().slice(14, 19)) }, { ...axis, size: 40 }],
    series: [{},
      { label: "commits", fill: color("--accent"), width: 0, paths: bars, points: { show: false } },
      { label: "refusals", fill: color("--bad"), width: 0, paths: bars, points: { show: false } }],
  }, [[], [], []], place);
}

function followPulse(section) {
  const place = byId("chart");
  const chart = chartIn(place);
  const lately = (counts) => counts.slice(-11, -1).reduce((sum, each) => sum + each, 0) / 10;
  const show = (found) => {
    chart.setData([found.seconds, found.commits, found.refusals]);
    byId("commits").textContent = lately(found.commits).toFixed(1);
    byId("refusals").textContent = lately(found.refusals).toFixed(1);
    byId("attempts").textContent = found.attempts_per_commit ?? "–";
    const list = byId("hot");
    list.replaceChildren(...found.hot.map((each) => {
      const item = element("li");
      item.append(element("a", each.key, { class: "key", href: list.dataset.base + path(each.key) }));
      const counts = element("span", `${each.commits} `, { class: "num" });
      if (each.refusals) counts.append(element("span", `${each.refusals} refused`, { class: "lost" }));
      item.append(counts);
      return item;
    }));
  };
  const ask = async () => {
    try {
      if (!document.hidden) {
        const response = await fetch(section.dataset.pulse);
        if (response.ok) show(await response.json());
      }
    } finally {
      setTimeout(ask, 2000);
    }
  };
  ask();
  new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: place.clientHeight })).observe(place);
}

const table = byId("log");
if (table?.dataset.live) followLog(table);
const pulse = document.querySelector("[data-pulse]");
if (pulse) followPulse(pulse);
byId("position")?.addEventListener("input", (event) => {
  byId("at").value = event.target.value;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    document.querySelector(".jump input")?.focus();
  }
});
