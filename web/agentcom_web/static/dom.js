// Small tools for drawing: elements, keyed lists, times, gauges. Text goes in as text nodes only.

/** An element: `props` are properties (class, data-* and aria-* as attributes), children are nodes or text. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Make `parent` show `items` in order, reusing the element of each key whose item is the same as before. */
export function show(parent, items, keyOf, draw) {
  const before = parent.drawn ?? new Map();
  const now = new Map();
  let at = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    const old = before.get(key);
    const entry = old?.item === item ? old : { item, element: draw(item) };
    if (old && old !== entry) {
      const hadFocus = old.element.contains(document.activeElement) ? focusPath(old.element) : null;
      if (at === old.element) at = entry.element;
      old.element.replaceWith(entry.element);
      if (hadFocus !== null) entry.element.querySelectorAll("button, summary, a")[hadFocus]?.focus();
    }
    if (entry.element === at) at = at.nextSibling;
    else parent.insertBefore(entry.element, at);
    before.delete(key);
    now.set(key, entry);
  }
  for (const gone of before.values()) gone.element.remove();
  parent.drawn = now;
}

const focusPath = (element) =>
  [...element.querySelectorAll("button, summary, a")].indexOf(document.activeElement);

let aheadMs = 0;

/** Ages go by the hub's clock, whatever this machine's says. */
export function goBy(hubMs) {
  aheadMs = hubMs ? hubMs - Date.now() : 0;
}

export function ago(text) {
  if (!text) return "";
  const seconds = Math.max(0, (Date.now() + aheadMs - Date.parse(text)) / 1000);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

export function lasted(ms) {
  if (ms < 1000) return `${ms} ms`;
  const seconds = ms / 1000;
  return seconds < 90 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

export const gib = (bytes) => (bytes / 2 ** 30).toFixed(bytes < 10 * 2 ** 30 ? 1 : 0);
export const time = (text, after = "") =>
  text ? h("time", { datetime: text, title: new Date(text).toLocaleString(), "data-after": after }, ago(text) + after) : "";

export const chip = (text, tone, filled, moving) =>
  h("span", { class: "chip", "data-tone": tone, "data-fill": Boolean(filled), "data-moving": Boolean(moving) }, text);

export function say(text) {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { toast.hidden = true; }, 5000);
}

export function gauge(label, part, text) {
  const known = Number.isFinite(part);
  const percent = known ? Math.max(0, Math.min(100, part)) : 0;
  const bar = h("i");
  bar.style.setProperty("--part", String(percent));
  return h("div", { class: "gauge" }, h("span", {}, label),
    h("div", {
      class: "track", role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100,
      "aria-valuenow": known ? Math.round(percent) : null, "aria-valuetext": text, "data-full": percent >= 90,
    }, bar),
    h("span", {}, text));
}

export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, known.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

const SURE_MS = 8000;
const askedUntil = new Map(); // by label: a table that is drawn anew meanwhile asks on

/** A button that asks once more, in place, before it does what cannot be undone. */
export function sureButton(text, label, act) {
  const button = h("button", { type: "button", class: "quiet danger" });
  const isAsked = () => (askedUntil.get(label) ?? 0) > Date.now();
  const show = () => {
    const asked = isAsked();
    button.textContent = asked ? `Really ${text.toLowerCase()}?` : text;
    button.setAttribute("aria-label", asked ? `${label}: press again to confirm` : label);
    if (asked) setTimeout(show, askedUntil.get(label) - Date.now() + 1);
    else askedUntil.delete(label);
  };
  button.addEventListener("click", () => {
    if (isAsked()) {
      askedUntil.delete(label);
      return act();
    }
    askedUntil.set(label, Date.now() + SURE_MS);
    show();
    return undefined;
  });
  show();
  return button;
}
