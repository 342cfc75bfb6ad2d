// The dashboard: reads one stream of events, keeps what it says, draws what has changed.
//
// Text reaches the page through textContent only. The token lives in sessionStorage and travels in the
// Authorization header, the stream's too, which is why it is read with fetch and not with EventSource.

import { budgetDetail, showBudgets } from "./budgets.js";
import { ago, chip, facts, goBy, h, lasted, say, show, sureButton, time } from "./dom.js";
import { endpointRow } from "./endpoints.js";
import { hostRow } from "./hosts.js";
import { watchWorktrees } from "./worktrees.js";

const TOKEN = "agentcom-token";
const API = "/api/v1";
const SILENT_MS = 12_000; // the server says something at least each 5 s
const RETRY_MS_MAX = 10_000;
const ROWS_MAX = 400;
const EVENTS_MAX = 12;
const LOG_EVERY_MS = 1_000;
const BUDGETS_EVERY_MS = 5_000;
const LOG_CHARS_MAX = 200_000;
const STATES = ["working", "assigned", "ready", "delayed", "waiting", "held", "completed", "dead", "cancelled", "expired"];
const ALWAYS_SHOWN = new Set(["working", "ready", "completed", "dead"]);
const FINAL = new Set(["completed", "dead", "cancelled", "expired"]);
const RETRYABLE = new Set(["dead", "cancelled", "expired"]);
const TONES = { working: "busy", assigned: "busy", delayed: "wait", waiting: "wait", held: "held", dead: "bad" };
const OPERATORS = new Set(["operate", "admin"]);
const READERS = new Set(["view", "operate", "admin"]);
const SUBMITTERS = new Set(["submit", "operate", "admin"]);

const $ = (id) => document.getElementById(id);
const live = {
  tasks: new Map(), agents: new Map(), hosts: new Map(), endpoints: new Map(), events: new Map(), counts: {}, reachable: false, known: false,
};
const view = { filter: null, older: null, selected: null, task: null, who: null };
let token = sessionStorage.getItem(TOKEN);
let stream = null;

const can = (roles) => view.who !== null && roles.has(view.who.role);

// --- the server --------------------------------------------------------------------------------------------

class Problem extends Error {
  constructor(status, code, detail, retryAfter) {
    super(detail);
    Object.assign(this, { status, code, retryAfter });
  }
}

async function problemOf(response) {
  let said = {};
  try { said = await response.json(); } catch { said = { detail: response.statusText }; }
  return new Problem(response.status, said.code ?? "", said.detail ?? "no reason given", Number(response.headers.get("Retry-After")) || 0);
}

async function ask(method, path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(API + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!response.ok) {
    const problem = await problemOf(response);
    if (problem.status === 401) signOut(problem.message);
    throw problem;
  }
  return response.json();
}

/** Do something that a person asked for; what goes wrong is said, not thrown. */
async function attempt(work, done) {
  try {
    const value = await work();
    if (done) say(done);
    return value;
  } catch (problem) {
    say(problem.message);
    return null;
  }
}

// --- signing in ---------------------------------------------------------------------------------------------

async function start() {
  const secret = new URLSearchParams(location.hash.slice(1)).get("link");
  if (secret) {
    history.replaceState(null, "", location.pathname);
    try {
      const response = await fetch(`${API}/session`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ secret }),
      });
      if (!response.ok) throw await problemOf(response);
      keepToken((await response.json()).token);
    } catch (problem) {
      if (!token) return signOut(problem.message);
      say(problem.message);
    }
  }
  if (!token) return signOut("");
  return enter();
}

function keepToken(value) {
  token = value;
  sessionStorage.setItem(TOKEN, value);
}

function signOut(reason) {
  stream?.abort();
  stream = null;
  token = null;
  view.who = null;
  sessionStorage.removeItem(TOKEN);
  closeTask();
  $("desk").hidden = true;
  $("who").hidden = true;
  $("gate").hidden = false;
  const note = $("gate-note");
  note.classList.toggle("problem", Boolean(reason));
  if (reason) note.textContent = reason;
  connection("off", "signed out");
  $("token").focus();
}

async function enter() {
  $("gate").hidden = true;
  $("desk").hidden = false;
  connection("wait", "connecting");
  follow();
  await whoAmI();
}

async function whoAmI() {
  try {
    view.who = await ask("GET", "/whoami");
  } catch (problem) {
    if (problem.status !== 401) setTimeout(() => { if (token) whoAmI(); }, 3000);
    return;
  }
  $("who-name").textContent = `${view.who.name} (${view.who.role})`;
  $("who").hidden = false;
  $("pause").hidden = !can(OPERATORS);
  $("endpoint-add").hidden = !can(OPERATORS);
  for (const list of ["agents", "endpoints"]) $(list).drawn?.forEach((entry) => { entry.item = null; });
  changed();
  lookAtBudgets();
  watchWorktrees(ask, () => token !== null && can(READERS));
}

/** They are not in the stream: what is spent changes with every paid attempt. */
async function lookAtBudgets() {
  clearTimeout(lookAtBudgets.timer);
  lookAtBudgets.again = true;
  if (lookAtBudgets.asks || !can(READERS)) return;
  lookAtBudgets.asks = true;
  while (lookAtBudgets.again && token) {
    lookAtBudgets.again = false;
    try { if (!document.hidden) showBudgets(await ask("GET", "/budgets")); } catch { /* the line above says what is wrong */ }
  }
  lookAtBudgets.asks = false;
  if (token) lookAtBudgets.timer = setTimeout(lookAtBudgets, BUDGETS_EVERY_MS);
}

function connection(state, text) {
  const line = $("connection");
  if (line.textContent !== text) line.textContent = text;
  line.dataset.state = state;
}

// --- the stream -----------------------------------------------------------------------------------------------

async function follow() {
  let wait = 500;
  while (token) {
    const mine = new AbortController();
    stream = mine;
    let problem = null;
    try {
      await readStream(mine, () => { wait = 500; });
    } catch (error) {
      problem = error;
    }
    if (!token || stream !== mine) return;
    if (problem instanceof Problem && problem.status === 401) return signOut(problem.message);
    if (problem instanceof Problem && problem.status === 403) return signOut(`${problem.message}. Use another token.`);
    if (problem?.code === "streams_full") connection("wait", "too many pages are open, trying again");
    else if (problem?.code === "hub_unreachable") connection("wait", "the hub is away, trying again");
    else connection("wait", "reconnecting");
    const pause = Math.max(wait, (problem?.retryAfter ?? 0) * 1000) * (0.75 + Math.random() / 2);
    await new Promise((resolve) => { setTimeout(resolve, pause); });
    wait = Math.min(wait * 2, RETRY_MS_MAX);
  }
}

async function readStream(mine, onLive) {
  let alarm = setTimeout(() => mine.abort(), SILENT_MS);
  try {
    const headers = { Authorization: `Bearer ${token}`, Accept: "text/event-stream" };
    const response = await fetch(`${API}/events?log=none`, { headers, signal: mine.signal, cache: "no-store" });
    if (!response.ok) throw await problemOf(response);
    goBy(Number(response.headers.get("AgentCom-Wall-Ms")));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(alarm);
      alarm = setTimeout(() => mine.abort(), SILENT_MS);
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) take(part, onLive);
    }
  } finally {
    clearTimeout(alarm);
  }
}

function take(part, onLive) {
  let name = "";
  let text = "";
  for (const line of part.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) text += line.slice(6);
  }
  if (!name) return;
  const value = JSON.parse(text);
  if (name === "end") throw new Problem(value.code === "forbidden" ? 403 : 401, value.code, value.reason, 0);
  if (name === "snapshot") {
    takeSnapshot(value);
    onLive();
  } else takeEvent(name, value);
  changed();
}

function takeSnapshot(value) {
  const keyed = (list, key) => new Map(list.map((item) => [item[key], item]));
  const older = [...live.tasks.values()].filter((task) => view.filter !== null && FINAL.has(task.state));
  live.tasks = keyed([...older, ...value.tasks], "id");
  live.agents = keyed(value.agents, "name");
  live.hosts = keyed(value.hosts, "name");
  live.endpoints = keyed(value.endpoints, "id");
  live.events = keyed(value.events ?? [], "number");
  live.counts = value.counts;
  live.reachable = value.reachable;
  live.known = true;
  connectionOfHub();
  if (view.selected !== null) refreshTask();
}

function takeEvent(name, value) {
  if (name === "event") {
    if (value.number !== null) live.events.set(value.number, value); // else it comes again, and the head says it now
    if (value.event.startsWith("budget_")) lookAtBudgets();
    return;
  }
  switch (value.event) {
    case "task_changed":
      live.tasks.set(value.task.id, value.task);
      if (value.task.id === view.selected) refreshTask();
      break;
    case "task_purged": live.tasks.delete(value.task); break;
    case "tasks_retired": value.tasks.forEach((task) => live.tasks.delete(task)); break;
    case "agent_changed": live.agents.set(value.agent.name, value.agent); break;
    case "agent_removed": live.agents.delete(value.name); break;
    case "host_changed": live.hosts.set(value.host.name, value.host); break;
    case "host_removed": live.hosts.delete(value.name); break;
    case "endpoint_changed": live.endpoints.set(value.endpoint.id, value.endpoint); break;
    case "endpoint_removed": live.endpoints.delete(value.id); break;
    case "queue_changed": live.counts = value.counts; break;
    case "hub_changed":
      live.reachable = value.reachable;
      connectionOfHub();
      break;
    default: break;
  }
}

const connectionOfHub = () => (live.reachable ? connection("live", "live") : connection("wait", "the hub is away"));

// --- drawing --------------------------------------------------------------------------------------------------

let drawing = false;
/** Draw once per frame, however much has changed. A hidden tab gets no frames and draws when it is seen. */
function changed() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (!live.known) return;
    for (const draw of [drawQueue, drawTasks, drawAgents, drawHosts, drawEndpoints, drawEvents]) {
      // One odd value in one part must not take the rest of the page with it.
      try { draw(); } catch (error) { console.error(draw.name, error); }
    }
  });
}

function drawQueue() {
  const by = live.counts.by_state ?? {};
  const shown = STATES.filter((state) => by[state] || ALWAYS_SHOWN.has(state) || view.filter === state);
  const items = shown.map((state) => `${state} ${by[state] ?? 0} ${view.filter === state}`);
  show($("counts"), items, (item) => item.split(" ")[0], (item) => {
    const [state, count, pressed] = item.split(" ");
    return h("button", {
      type: "button", class: `count${count === "0" ? " none" : ""}`, "aria-pressed": pressed,
      onclick: () => filterBy(view.filter === state ? null : state),
    }, h("b", {}, count), state);
  });
  const pauses = live.counts.pauses ?? [];
  showTroubles(live.counts.degraded ? live.counts.troubles ?? [] : null);
  $("paused").hidden = !live.counts.paused && !pauses.length;
  $("paused").textContent = live.counts.paused
    ? "Dispatch is paused: tasks are taken, none is started."
    : `Paused: ${pauses.join(", ")}. Their tasks wait, the others go on.`;
  $("pause").textContent = live.counts.paused ? "Resume dispatch" : "Pause dispatch";
}

/** The banner of a degraded hub. Told once: a reader's voice is not asked again for the same words. */
function showTroubles(troubles) {
  const banner = $("degraded");
  const told = troubles === null ? "" : ["The hub is degraded.", ...troubles].join("\n");
  if (banner.dataset.told === told) return;
  banner.dataset.told = told;
  banner.hidden = troubles === null;
  banner.replaceChildren(...told.split("\n").map((text, n) => h(n ? "p" : "strong", {}, text)));
}

async function filterBy(state) {
  view.filter = state;
  view.older = null;
  changed();
  if (state === null) return;
  const page = await attempt(() => ask("GET", `/tasks?state=${state}&limit=100`));
  if (page && view.filter === state) takePage(page);
}

function takePage(page) {
  for (const task of page.tasks) if (!live.tasks.has(task.id)) live.tasks.set(task.id, briefOf(task));
  view.older = page.next_cursor;
  changed();
}

const briefOf = (task) => ({
  ...task, agent: task.route?.agent ?? null, host: task.route?.host ?? null, model: task.route?.model ?? null,
  strategy: task.route?.strategy ?? null, status: task.result?.status ?? task.status ?? null,
});

function drawTasks() {
  const all = [...live.tasks.values()].filter((task) => view.filter === null || task.state === view.filter);
  all.sort((a, b) => b.id - a.id);
  const shown = all.slice(0, ROWS_MAX);
  show($("task-rows"), shown, (task) => task.id, taskRow);
  for (const [id, entry] of $("task-rows").drawn) entry.element.setAttribute("aria-selected", String(id === view.selected));
  $("tasks-table").hidden = shown.length === 0;
  $("tasks-title").textContent = view.filter ? `Tasks, ${view.filter}` : "Tasks";
  const total = view.filter ? live.counts.by_state?.[view.filter] : live.counts.tasks_total;
  $("tasks-note").textContent = total > shown.length ? `newest ${shown.length} of ${total}` : shown.length ? `${shown.length}` : "";
  $("older").hidden = !(total > shown.length && shown.length < ROWS_MAX && (view.filter === null || view.older !== null));
  const letters = RETRYABLE.has(view.filter) && shown.length && can(OPERATORS);
  $("retry-dead").hidden = $("purge-dead").hidden = !letters;
  $("retry-dead").textContent = `Retry all ${view.filter}`;
  if ($("purge-dead").dataset.sure !== view.filter) {
    $("purge-dead").dataset.sure = "";
    $("purge-dead").textContent = `Remove all ${view.filter}`;
  }
  empty($("tasks-empty"), shown.length === 0, view.filter
    ? [h("p", {}, `No task is ${view.filter} now.`)]
    : [h("p", {}, "Nothing has been submitted yet. Try:"), h("code", {}, "agentcom submit \"List the files\" --command \"ls -la\" --wait")]);
}

function stateChip(task) {
  if (task.state === "completed") {
    if (task.status === "verified") return chip("✓ verified", "good", true);
    const tone = task.status === "partial_pass" || task.status === "no_change" ? "wait" : null;
    return chip((task.status ?? "completed").replaceAll("_", " "), tone, true);
  }
  return chip(task.stalled ? `${task.state}, stalled` : task.state, task.stalled ? "wait" : TONES[task.state], task.state === "dead", task.state === "working");
}

function taskRow(task) {
  const open = () => openTask(task.id);
  const where = task.agent ? [h("span", { class: "cut" }, task.agent), h("span", { class: "minor cut" }, task.host ?? "")] : [];
  const why = task.error && task.state !== "completed" ? h("span", { class: "minor" }, task.error.message) : null;
  const repo = task.repo ? h("span", { class: "minor" }, task.repo) : null;
  const title = h("span", {}, h("span", { class: "title" }, task.description), repo, why);
  return h("tr", { onclick: (event) => { if (!event.target.closest("button")) open(); } },
    h("td", {}, h("button", { type: "button", class: "what", onclick: open }, h("span", { class: "number" }, String(task.id)), title)),
    h("td", {}, stateChip(task)),
    h("td", {}, h("span", { class: `lane-${task.lane}` }, task.lane)),
    h("td", {}, task.tier),
    h("td", {}, where),
    h("td", {}, task.model && task.model !== "none" ? task.model : ""),
    h("td", { class: "right minor" }, time(task.finished_at ?? task.assigned_at ?? task.created_at)));
}

function empty(element, isEmpty, content) {
  element.hidden = !isEmpty;
  if (isEmpty) element.replaceChildren(...content);
}

/** What the hub keeps of what happened, newest first; the whole of it is in `agentcom events`. */
function drawEvents() {
  const newest = [...live.events.values()].sort((a, b) => b.number - a.number);
  for (const event of newest.splice(EVENTS_MAX)) live.events.delete(event.number);
  show($("events"), newest, (event) => event.number, eventRow);
  empty($("events-empty"), newest.length === 0, [h("p", {}, "Nothing has happened yet.")]);
}

function eventRow(event) {
  const about = event.name ?? (event.task ? `task ${event.task}` : event.event.startsWith("budget_") ? event.key : "");
  const detail = event.event.startsWith("budget_") ? budgetDetail(event) : event.reason ?? event.message ?? (event.value === undefined ? "" : `${event.was} → ${event.value}`);
  return h("li", {},
    h("p", { class: "line" }, h("span", {}, event.event.replaceAll("_", " "), about ? ` ${about}` : ""), time(event.at, " ago")),
    detail || event.by ? h("p", { class: "minor" }, [detail, event.by && `by ${event.by}`].filter(Boolean).join(", ")) : null);
}

const byName = (a, b) => a.name.localeCompare(b.name);

function drawAgents() {
  const agents = [...live.agents.values()].sort(byName);
  show($("agents"), agents, (agent) => agent.name, agentRow);
  const busy = agents.filter((agent) => agent.task).length;
  $("agents-note").textContent = agents.length ? `${busy} of ${agents.length} busy` : "";
  empty($("agents-empty"), agents.length === 0, [h("p", {}, "No agent yet. Agents come with a sidecar; on this machine:"), h("code", {}, "agentcom sidecar")]);
}

function agentRow(agent) {
  const tone = { working: "busy", assigned: "busy", blocked: "wait", idle: "good" }[agent.state];
  const flags = [agent.cordoned && "cordoned", agent.draining && "draining", agent.unresponsive && "unresponsive", agent.stalled && "stalled", agent.blocked && `${agent.blocked.backend} until ${new Date(agent.blocked.until).toLocaleTimeString()}: ${agent.blocked.reason}`].filter(Boolean);
  const doing = agent.task
    ? h("button", { type: "button", class: "jump", onclick: () => openTask(agent.task) }, `task ${agent.task}`)
    : h("span", {}, `${agent.completed_count} done${agent.failed_count ? `, ${agent.failed_count} failed` : ""}`);
  const change = agent.cordoned ? "uncordon" : "cordon";
  const button = can(OPERATORS) && h("button", {
    type: "button", class: "quiet", "aria-label": `${change} ${agent.name}`,
    onclick: () => attempt(() => ask("POST", `/agents/${encodeURIComponent(agent.name)}/${change}`)),
  }, agent.cordoned ? "Uncordon" : "Cordon");
  return h("li", {},
    h("p", { class: "line" }, h("span", {}, agent.name), chip(agent.state, tone, agent.state === "idle", agent.state === "working")),
    h("p", { class: "line minor" }, h("span", {}, agent.host), h("span", {}, doing, button || null)),
    flags.length ? h("p", { class: "minor wait" }, flags.join(", ")) : null);
}

function drawHosts() {
  const hosts = [...live.hosts.values()].sort((a, b) => (a.state === "online" ? 0 : 1) - (b.state === "online" ? 0 : 1) || byName(a, b));
  show($("hosts"), hosts, (host) => host.name, hostRow);
  const online = hosts.filter((host) => host.state === "online").length;
  $("hosts-note").textContent = hosts.length ? `${online} of ${hosts.length} online` : "";
  empty($("hosts-empty"), hosts.length === 0, [h("p", {}, "No host has joined. Make a code for another machine:"), h("code", {}, "agentcom host invite")]);
}

function drawEndpoints() {
  const endpoints = [...live.endpoints.values()].sort((a, b) => a.id - b.id);
  show($("endpoints"), endpoints, (endpoint) => endpoint.id, (endpoint) => endpointRow(endpoint, endpointActions(endpoint)));
  const healthy = endpoints.filter((endpoint) => endpoint.healthy).length;
  $("endpoints-note").textContent = endpoints.length ? `${healthy} of ${endpoints.length} healthy` : "";
  empty($("endpoints-empty"), endpoints.length === 0, [h("p", {}, "No LLM server is known. An Ollama on a host's own port 11434 is found by itself; others are added here or with:"), h("code", {}, "agentcom endpoint add URL")]);
  const hosts = ["", ...[...live.hosts.keys()].sort()];
  if ($("endpoint-host").options.length !== hosts.length) {
    $("endpoint-host").replaceChildren(...hosts.map((name) => h("option", { value: name }, name || "the hub")));
  }
}

function endpointActions(endpoint) {
  const path = `/endpoints/${endpoint.id}`;
  return can(OPERATORS) && h("div", { class: "actions" },
    h("button", { type: "button", class: "quiet", "aria-label": `Check ${endpoint.name} now`, onclick: () => attempt(() => ask("POST", `${path}/probe`), "A check is on its way.") }, "Check now"),
    sureButton("Remove", `Remove ${endpoint.name}`, () => attempt(() => ask("DELETE", path))));
}

// --- one task -------------------------------------------------------------------------------------------------

let returnFocus = null;

function openTask(id) {
  returnFocus = document.activeElement;
  view.selected = id;
  view.task = null;
  $("pane").hidden = false;
  $("pane").scrollTop = 0;
  const brief = live.tasks.get(id);
  $("pane-title").replaceChildren(h("span", {}, `Task ${id}`), brief ? stateChip(brief) : "");
  $("pane-body").replaceChildren(brief ? h("p", { class: "description" }, brief.description) : h("p", { class: "minor" }, "Loading"));
  $("pane-title").focus();
  refreshTask();
  changed();
}

function closeTask() {
  if (view.selected === null) return;
  const row = $("task-rows").drawn?.get(view.selected)?.element;
  view.selected = null;
  view.task = null;
  clearTimeout(followLog.timer);
  $("pane").hidden = true;
  (returnFocus?.isConnected ? returnFocus : row?.querySelector("button"))?.focus();
  changed();
}

/** Read the selected task again; changes that come quickly after each other cost one request. */
function refreshTask() {
  clearTimeout(refreshTask.timer);
  refreshTask.timer = setTimeout(async () => {
    const id = view.selected;
    if (id === null) return;
    try {
      const task = await ask("GET", `/tasks/${id}`);
      const why = FINAL.has(task.state) || task.state === "working" || task.state === "assigned" ? null : await ask("GET", `/tasks/${id}/why`);
      if (view.selected === id) drawTask(task, why);
    } catch (problem) {
      if (view.selected === id && view.task === null) $("pane-body").replaceChildren(h("p", { class: "error" }, problem.message));
    }
  }, view.task === null ? 0 : 250);
}

function drawTask(task, why) {
  const sameAttempt = view.task?.id === task.id && view.task?.attempt === task.attempt;
  const log = sameAttempt ? $("pane-body").querySelector(".log") : null;
  view.task = task;
  $("pane-title").replaceChildren(h("span", {}, `Task ${task.id}`), stateChip(briefOf(task)));
  const section = (title, ...content) => h("section", {}, h("h3", {}, title), ...content);
  const logSection = log ?? h("section", { class: "log", hidden: true }, h("h3", {}, "Log"), h("pre", { tabindex: "0", "aria-label": "Log" }));
  $("pane-body").replaceChildren(...[
    h("p", { class: "description" }, task.description),
    taskActions(task),
    task.state === "held" && task.error?.code === "question" && section("Question", (sameAttempt && $("pane-body").querySelector("form.answer")) || answerForm(task)),
    why && section("Why it is not running", whyNote(why)),
    task.error && section("Error", h("div", { class: "note bad" }, h("p", {}, task.error.message), h("span", { class: "minor" }, `${task.error.class}${task.error.code ? `, ${task.error.code}` : ""}`))),
    task.route && section("Route", routeNote(task.route)),
    task.result && section("Result", resultFacts(task.result)),
    !task.result && task.state === "completed" && section("Result", h("p", { class: "minor" }, "Its result has gone (retention.reports_s, retention.reports_max).")),
    task.result?.iterations?.some((round) => round.checks.length || round.judgement) && section("Checks", rounds(task.result.iterations)),
    task.result?.second_host?.checks.length && section("Checks on the second host", rounds([task.result.second_host])),
    task.result?.output && section("Output", h("pre", { tabindex: "0", "aria-label": "Output" }, task.result.output)),
    logSection,
    section("Task", taskFacts(task)),
  ].filter(Boolean));
  clearTimeout(followLog.timer);
  if (task.attempt > 0) followLog(task, logSection, log?.offset ?? 0);
}

function answerForm(task) {
  const text = h("textarea", { rows: "3", required: true, maxlength: "8000", "aria-label": "Answer" });
  const send = (event) => {
    event.preventDefault();
    attempt(() => ask("POST", `/tasks/${task.id}/answer`, { text: text.value }), "Answered.");
  };
  return h("form", { class: "answer", onsubmit: send },
    h("p", {}, task.question.text),
    h("p", { class: "minor" }, `Attempt ${task.question.attempt} on ${task.question.host}, since ${task.question.asked_at}`),
    can(SUBMITTERS) ? [text, h("button", { type: "submit" }, "Answer")] : null);
}

function taskActions(task) {
  const act = (verb, text) => h("button", { type: "button", onclick: () => attempt(() => ask("POST", `/tasks/${task.id}/${verb}`), "Done.") }, text);
  const buttons = [];
  if (can(SUBMITTERS) && RETRYABLE.has(task.state)) buttons.push(act("retry", "Retry"));
  if (can(OPERATORS) && task.state === "held") buttons.push(act("release", "Release"));
  if (can(OPERATORS) && ["ready", "delayed", "waiting"].includes(task.state)) buttons.push(act("hold", "Hold"));
  if (can(SUBMITTERS) && !FINAL.has(task.state)) buttons.push(sureButton("Cancel task", `Cancel task ${task.id}`, () => attempt(() => ask("DELETE", `/tasks/${task.id}`), "Cancelled.")));
  return buttons.length ? h("div", { class: "actions" }, buttons) : null;
}

function whyNote(why) {
  const hosts = (why.hosts ?? []).filter((host) => host.fails).map((host) =>
    h("li", {}, h("strong", {}, host.agent ? `${host.host}, ${host.agent}` : host.host), `: ${host.message}`, host.change ? h("code", { class: "command" }, host.change) : null));
  return h("div", { class: "note wait" }, h("p", {}, why.reason), hosts.length ? h("ul", { class: "reasons" }, hosts) : null);
}

function routeNote(route) {
  const others = (route.others ?? []).map((other) =>
    h("li", {}, `${other.agent} on ${other.host}${other.endpoint ? `, ${other.endpoint}` : ""}: ${lasted(Math.round((other.cost_us ?? 0) / 1000))} expected`));
  return h("div", {},
    facts([
      ["Strategy", route.strategy?.replaceAll("_", " ")], ["Agent", route.agent], ["Host", route.host],
      ["Model", route.model !== "none" ? route.model : "none (shell)"], ["Endpoint", route.endpoint],
      ["Expected", route.score ? lasted(Math.round((route.score.cost_us ?? 0) / 1000)) : null],
    ]),
    h("p", { class: "minor" }, `Reason: ${route.reason}`),
    others.length ? h("details", {}, h("summary", {}, "The others it was weighed against"), h("ul", {}, others)) : null);
}

function resultFacts(result) {
  const request = /^https?:\/\//.test(result.pull_request ?? "")
    ? h("a", { href: result.pull_request, rel: "noreferrer noopener", target: "_blank" }, "open")
    : result.pull_request;
  return h("div", {},
    facts([
      ["Status", result.status === "verified" ? "✓ verified" : (result.status ?? "not completed").replaceAll("_", " ")], ["Backend", result.backend],
      ["Model", result.model], ["Tokens in", result.tokens_in ? result.tokens_in.toLocaleString() : null],
      ["Tokens out", result.tokens_out ? result.tokens_out.toLocaleString() : null],
      ["Cost", result.cost_usd === null ? "unknown" : `$${result.cost_usd === 0 ? "0" : result.cost_usd.toFixed(4)}`],
      ["Took", lasted(result.duration_ms)], ["Sandbox", result.sandbox === "none" ? `none: ${result.sandbox_reason || "not isolated"}` : result.sandbox],
      ["Branch", result.branch], ["Commit", result.commit?.slice(0, 12)], ["Pull request", request],
      ["Evidence", EVIDENCE[result.evidence]], ["Changed tests or settings", (result.tampered ?? []).join(", ")],
      ["Report", signedBy(result.signature)], ["Second host", secondSaid(result.second_host)],
    ]),
    (result.warnings ?? []).map((warning) => h("p", { class: "minor wait" }, warning)));
}

function secondSaid(second) {
  if (!second) return null;
  const why = second.why ? `: ${second.why}` : "";
  return `${second.host} ${second.verdict.replaceAll("_", " ")}${why} (${signedBy(second.signature)})`;
}

function signedBy(signature) {
  if (!signature) return "not signed";
  return `signed by ${signature.host}, key ${signature.key}, ${signature.verified ? "verified" : "not verified"}`;
}

const EVIDENCE = {
  red_to_green: "red to green", green_to_green: "green to green: no new evidence",
  red_to_red: "red to red", green_to_red: "green to red",
};

function alsoSaid(check) {
  const said = check.source === "repository" ? ["of the repository"] : [];
  if (check.before && check.before !== check.status) said.push(`${check.before.replaceAll("_", " ")} on the base`);
  if (check.with_base) said.push(`${check.with_base.replaceAll("_", " ")} with the tests of the base`);
  return said.join(", ");
}

/** An opinion, and shown as one: never in the colours of a check. */
function judged(judgement) {
  const said = judgement.reasons?.length ? judgement.reasons.join(" ") : judgement.note;
  return h("p", { class: "minor" }, `Judged by ${judgement.model}, not proof: ${judgement.verdict}${said ? `. ${said}` : ""}`);
}

function rounds(iterations) {
  const tones = { pass: "good", fail: "bad", timed_out: "bad", error: "bad", refused: "bad", no_evidence: "wait" };
  return h("div", {}, iterations.map((round) => h("div", { class: "round" },
    iterations.length > 1 ? h("p", {}, `Iteration ${round.n}`) : null,
    h("ul", { class: "checks" }, round.checks.map((check) => h("li", {},
      chip(check.status.replaceAll("_", " "), tones[check.status], true),
      h("span", { class: "mono" }, `${check.kind}${check.target ? `: ${check.target}` : ""}`),
      h("span", { class: "minor" }, lasted(check.duration_ms)), h("span", { class: "minor wait" }, alsoSaid(check)),
      check.output ? h("details", { open: check.status !== "pass" || (check.with_base ?? "pass") !== "pass" }, h("summary", {}, "Output"), h("pre", {}, check.output)) : null))),
    round.judgement ? judged(round.judgement) : null)));
}

const moment = (text) => (text ? new Date(text).toLocaleString() : null);

function taskFacts(task) {
  const tier = task.inferred_tier && task.inferred_tier !== task.tier ? `${task.tier} (looked like ${task.inferred_tier})` : task.tier;
  return facts([
    ["Lane", task.lane], ["Tier", `${tier}, ${task.tier_source}`], ["Attempt", task.attempt || null],
    ["Retries used", task.retries_used || null], ["Workers lost", task.losses || null], ["Submitted by", task.submitted_by],
    ["Created", time(task.created_at, " ago")], ["Assigned", time(task.assigned_at, " ago")], ["Finished", time(task.finished_at, " ago")],
    ["Waits for", (task.waits_for ?? []).join(", ")], ["Not before", moment(task.not_before)],
    ["Tried again", moment(task.retry_at)], ["Start by", moment(task.start_by)], ["Complete by", moment(task.complete_by)],
    ["Expires", moment(task.expires_at)],
    ["Story", task.story_shortened ? `shortened by ${task.story_shortened.by} at ${moment(task.story_shortened.at)}: earlier entries have gone` : null],
    ["Second host", task.second_look ? `attempt ${task.second_look.attempt} on ${task.second_look.host} is verified, another host verifies it` : null],
    ["Repository", task.repo], ["Branch", task.branch], ["Needs", (task.needs ?? []).join(", ")], ["Labels", (task.labels ?? []).join(", ")],
    ["Command", task.command ? h("code", {}, task.command) : null],
    ["Files", (task.files ?? []).map((file) => file.path).join(", ")], ["Done when", (task.success_criteria ?? []).join("; ")],
  ]);
}

async function followLog(task, section, from) {
  let said = null;
  try { said = await ask("GET", `/tasks/${task.id}/log?offset=${from}`); } catch { said = null; }
  if (view.task !== task || !section.isConnected) return;
  if (said?.text) {
    const pre = section.querySelector("pre");
    const atEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
    pre.textContent = (pre.textContent + said.text).slice(-LOG_CHARS_MAX);
    section.hidden = task.result?.output === pre.textContent;
    if (atEnd) pre.scrollTop = pre.scrollHeight;
  }
  section.offset = said?.next_offset ?? from;
  const goesOn = task.state === "working" || task.state === "assigned";
  if (goesOn && !said?.complete) followLog.timer = setTimeout(() => followLog(task, section, section.offset), LOG_EVERY_MS);
}

// --- what people do ----------------------------------------------------------------------------------------------

$("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token").value.trim());
  $("token").value = "";
  enter();
});
$("sign-out").addEventListener("click", () => signOut(""));
$("pause").addEventListener("click", () => attempt(() => ask("POST", `/queue/${live.counts.paused ? "resume" : "pause"}`)));
$("pane-close").addEventListener("click", closeTask);
/** Tasks that were left as they are, since others wait for them. */
async function inBulk(verb, state) {
  let cursor = null;
  const kept = [];
  do {
    const fields = cursor === null ? { state } : { state, cursor };
    const answer = await ask("POST", `/dead/${verb}`, fields);
    kept.push(...(answer.kept ?? []));
    cursor = answer.next_cursor;
  } while (cursor !== null);
  return kept;
}

async function purgeAll(state) {
  const kept = await inBulk("purge", state);
  say(kept.length ? `Kept, since other tasks wait for them: ${kept.join(", ")}. The others are gone for good.` : "They are gone for good.");
}

$("retry-dead").addEventListener("click", () => attempt(() => inBulk("retry", view.filter), "They are back in their lanes."));
$("purge-dead").addEventListener("click", ({ currentTarget: button }) => {
  const state = view.filter;
  if (button.dataset.sure === state) {
    button.dataset.sure = "";
    button.textContent = `Remove all ${state}`;
    attempt(() => purgeAll(state));
    return;
  }
  button.dataset.sure = state;
  button.textContent = `Remove all ${state} for good?`;
});
$("older").addEventListener("click", async () => {
  const oldest = Math.min(...[...live.tasks.values()].filter((t) => !view.filter || t.state === view.filter).map((t) => t.id));
  const state = view.filter ? `&state=${view.filter}` : "";
  const page = await attempt(() => ask("GET", `/tasks?limit=100&cursor=${view.older ?? oldest}${state}`));
  if (page) takePage(page);
});
$("endpoint-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  const wish = { url: form.elements.url.value.trim(), kind: form.elements.kind.value };
  if (form.elements.name.value.trim()) wish.name = form.elements.name.value.trim();
  if (form.elements.host.value) wish.host = form.elements.host.value;
  try {
    await ask("POST", "/endpoints", wish);
    form.reset();
    $("endpoint-error").textContent = "";
    $("endpoint-add").open = false;
    say("The endpoint is added and being checked.");
  } catch (problem) {
    $("endpoint-error").textContent = problem.message;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && view.selected !== null) closeTask();
});
addEventListener("hashchange", () => { if (location.hash.includes("link=")) start(); });
setInterval(() => {
  for (const element of document.querySelectorAll("time[data-after]")) element.textContent = ago(element.dateTime) + element.dataset.after;
}, 5000);

start();
