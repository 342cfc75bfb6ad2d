// How a host is drawn: its state, gauges of what is known, and a line of its last minutes.

import { chip, gauge, gib, h, lasted, time } from "./dom.js";

const LINE_WIDTH = 100;
const LINE_HEIGHT = 16;

export function hostRow(host) {
  const figures = host.resources;
  const age = Number.isFinite(host.resources_age_s) ? `, the last are ${lasted(Math.round(host.resources_age_s * 1000))} old` : "";
  const stale = host.state === "online" && !figures ? `no current figures${age}` : null;
  const sandbox = host.sandbox === "none" ? `commands are not isolated${host.sandbox_note ? `: ${host.sandbox_note}` : ""}` : null;
  const wrong = host.overruled?.length ? `declared, but not found here: ${host.overruled.join(", ")}` : null;
  const full = host.no_room ? `takes no new attempts: ${host.no_room}` : null;
  const quiet = host.quiet_always ? "always quiet: takes no work" : host.quiet_until ? `quiet until ${new Date(host.quiet_until).toLocaleTimeString()}` : null;
  const faults = [...(host.check_faults ?? []).map((line) => `check not usable: ${line}`),
    ...(host.program_faults ?? []).map((line) => `program not usable: ${line}`)];
  const seen = host.state !== "online" && host.last_seen ? h("p", { class: "minor" }, "last seen ", time(host.last_seen, " ago")) : null;
  return h("li", {},
    h("p", { class: "line" }, h("span", {}, host.name), chip(host.state, host.state === "online" ? "good" : null, host.state === "online")),
    [stale, host.removing ? "being removed" : host.draining && "draining", host.paused && "paused", quiet, full, wrong, sandbox, ...faults].filter(Boolean).map((text) => h("p", { class: "minor wait" }, text)),
    seen,
    h("div", { class: "gauges" }, figures ? gaugesOf(figures, host.vram) : []),
    figures ? h("div", { class: "lines" }, [sparkline("CPU", host.trend?.cpu), sparkline("GPU", host.trend?.gpu)].filter(Boolean)) : null);
}

function gaugesOf(figures, vram) {
  const found = [];
  if (Number.isFinite(figures.cpu_percent)) found.push(gauge("CPU", figures.cpu_percent, `${Math.round(figures.cpu_percent)} %`));
  if (figures.ram_total_bytes && Number.isFinite(figures.ram_available_bytes)) {
    const used = figures.ram_total_bytes - figures.ram_available_bytes;
    found.push(gauge("RAM", (100 * used) / figures.ram_total_bytes, `${gib(used)} / ${gib(figures.ram_total_bytes)} GiB`));
  }
  (figures.gpus ?? []).forEach((gpu, n) => {
    const name = figures.gpus.length > 1 ? `GPU ${n}` : "GPU";
    if (Number.isFinite(gpu.utilisation_percent)) found.push(gauge(name, gpu.utilisation_percent, `${Math.round(gpu.utilisation_percent)} %`));
    if (gpu.vram_total_bytes && Number.isFinite(gpu.vram_used_bytes)) {
      found.push(gauge("VRAM", (100 * gpu.vram_used_bytes) / gpu.vram_total_bytes, `${gib(gpu.vram_used_bytes)} / ${gib(gpu.vram_total_bytes)} GiB`));
    }
  });
  if (vram?.source === "api_ps") found.push(gauge("VRAM", NaN, `${gib(vram.used_bytes)} GiB by models`));
  return found;
}

/** The last minutes of a figure in percent; a gap where it was not known. Nothing before there are two points. */
function sparkline(label, points) {
  const known = (points ?? []).filter(Number.isFinite);
  if (known.length < 2) return null;
  const step = LINE_WIDTH / (points.length - 1);
  let path = "";
  points.forEach((point, n) => {
    if (!Number.isFinite(point)) return;
    const begins = n === 0 || !Number.isFinite(points[n - 1]);
    const y = LINE_HEIGHT * (1 - Math.max(0, Math.min(100, point)) / 100);
    path += `${begins ? "M" : "L"}${(n * step).toFixed(1)} ${y.toFixed(1)}`;
  });
  const svg = (tag, props) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
    return element;
  };
  const picture = svg("svg", {
    class: "spark", viewBox: `0 -1 ${LINE_WIDTH} ${LINE_HEIGHT + 2}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${label} over the last minutes, between ${Math.min(...known)} and ${Math.max(...known)} percent`,
  });
  picture.append(svg("path", { d: path }));
  return h("div", { class: "spark-row" }, h("span", {}, label), picture);
}
