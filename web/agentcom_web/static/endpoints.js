// How an endpoint is drawn: its health and circuit, its calls, and each model with what is known of it.

import { chip, gib, h, time } from "./dom.js";

const MODELS_MAX = 40;
const DIGEST_CHARS = 12;
const clock = (moment) => (moment ? ` until ${new Date(moment).toLocaleTimeString()}` : "");

/** `actions` are the buttons of who may press them. */
export function endpointRow(endpoint, actions) {
  const flight = Object.values(endpoint.in_flight ?? {}).reduce((sum, n) => sum + n, 0);
  const models = (endpoint.models ?? []).slice(0, MODELS_MAX).map((model) => modelItem(model, endpoint));
  const kind = [endpoint.flavour ?? endpoint.kind, endpoint.version].filter(Boolean).join(" ");
  const from = endpoint.host ? `from ${endpoint.host}` : "from the hub";
  return h("li", {},
    h("p", { class: "line" }, h("span", {}, endpoint.name), chip(endpoint.healthy ? "healthy" : "unhealthy", endpoint.healthy ? "good" : "bad", true)),
    h("p", { class: "minor cut", title: endpoint.url }, endpoint.url),
    h("p", { class: "minor" }, [kind, from, `${flight} of ${endpoint.cap} slots in use`, loadOf(endpoint.load)].filter(Boolean).join(", ")),
    endpoint.list_fault ? h("p", { class: "minor bad" }, `list of models: ${endpoint.list_fault}`) : null,
    endpoint.healthy || !endpoint.reason ? null : h("p", { class: "minor bad" }, endpoint.reason),
    endpoint.since ? h("p", { class: "minor" }, endpoint.healthy ? "healthy for " : "unhealthy for ", time(endpoint.since)) : null,
    troublesOf(endpoint).map((text) => h("p", { class: "minor wait" }, text)),
    models.length ? h("ul", { class: "models", "aria-label": "Models" }, models) : null,
    actions || null);
}

function troublesOf(endpoint) {
  const breaker = endpoint.breaker ?? {};
  return [
    endpoint.draining && "draining: it goes when its last call has ended",
    breaker.state === "open" && `left alone${clock(breaker.until)}: ${breaker.reason}`,
    breaker.state === "half_open" && `tried with one call: ${breaker.reason}`,
    ...(endpoint.unreachable_from ?? []).map((way) => `${way.host} cannot reach it${clock(way.until)}: ${way.reason}`),
    ...(endpoint.blocked_on ?? []).map((one) => `blocked on ${one.host}${clock(one.until)}: ${one.reason}`),
    ...(endpoint.quarantined ?? []).map((one) => `${one.model} hangs, no work for it${clock(one.until)}: ${one.reason}`),
    ...(endpoint.loading ?? []).map((one) => `${one.model} is loading`),
  ].filter(Boolean);
}

function loadOf(load) {
  if (!load) return null;
  return `${load.running ?? "?"} running${load.waiting ? `, ${load.waiting} waiting` : ""} there`;
}

function modelItem(model, endpoint) {
  const text = `${model.name}${model.warm ? ", warm" : ""}${model.remote ? ", cloud" : ""}`;
  return h("li", { class: model.warm ? "" : "cold", title: titleOf(model, endpoint) }, chip(text, model.warm ? "good" : null, model.warm));
}

function titleOf(model, endpoint) {
  const measured = model.measured ?? {};
  const context = [model.context_length, model.context_max].filter(Boolean).join(" of ");
  return [
    model.parameter_size, model.quantization, model.size_bytes ? `${gib(model.size_bytes)} GiB` : null, model.capabilities?.join(", "),
    context ? `context ${context}` : null,
    model.vram_percent != null ? `${model.vram_percent}% on GPUs` : null,
    model.remote ? "runs elsewhere" : null, model.fault || null, model.quarantined ? "hangs" : null,
    `${model.in_flight ?? 0} of ${endpoint.cap} calls`,
    measured.tokens_per_s != null ? `${measured.tokens_per_s.toFixed(1)} tokens/s (of ${measured.rate_samples})` : null,
    measured.first_byte_ms != null ? `first byte ${measured.first_byte_ms} ms (of ${measured.first_byte_samples})` : null,
    measured.load_s != null ? `loads in ${measured.load_s.toFixed(1)} s (of ${measured.load_samples})` : null,
    model.digest ? `digest ${model.digest.replace("sha256:", "").slice(0, DIGEST_CHARS)}` : null,
  ].filter(Boolean).join(", ");
}
