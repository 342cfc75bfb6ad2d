// A real inference engine behind Ollama's routes: llama.cpp by node-llama-cpp, one GGUF file per model.
//
//   node server.mjs PACKAGES NAME=FILE...
//
// PACKAGES is the folder with node_modules. Prints {"ready": true, "url": ...} and ends when its stdin does. One call at
// a time, one thread: two of them spin against each other on a busy machine. A model is loaded by its first call, or by
// an empty prompt, and again when num_ctx differs, as the real server does.

import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, ...named] = process.argv.slice(2);
const engine = await import(pathToFileURL(join(packages, "node_modules", "node-llama-cpp", "dist", "index.js")));
const llama = await engine.getLlama({
  build: "never", gpu: false, maxThreads: 1, logLevel: "error", usePrebuiltBinaries: true, skipDownload: true,
});

const DEFAULT_CTX = 2048;
const BODY_MAX = 4 * 1024 * 1024;
const models = new Map(named.map((each) => {
  const [name, file] = each.split("=");
  const digest = createHash("sha256").update(readFileSync(file)).digest("hex");
  return [name, { name, file, digest, size: statSync(file).size, loaded: null, trained: 0, keepMs: 300_000, timer: null }];
}));
for (const model of models.values()) {
  const info = await engine.readGgufFileInfo(model.file);
  model.trained = info.metadata.llama.context_length;
}
const counts = { calls: 0, loads: 0, aborted: 0, tokens_in: 0, tokens_out: 0 };
const details = {
  parent_model: "", format: "gguf", family: "llama", families: ["llama"], parameter_size: "113K", quantization_level: "F32",
};
let turn = Promise.resolve(); // of the calls, one after the other

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

const ns = (ms) => Math.round(ms * 1e6);
const card = (model) => ({ name: model.name, model: model.name, size: model.size, digest: model.digest, details });

function modelOf(body) {
  const name = String(body.model ?? "");
  const model = models.get(name.includes(":") ? name : `${name}:latest`);
  if (!model) throw new Refused(404, `model '${name}' not found`);
  return model;
}

async function unload(model) {
  const loaded = model.loaded;
  model.loaded = null;
  if (loaded) await loaded.weights.dispose();
}

async function held(model, wanted) {
  const size = Math.min(wanted ?? DEFAULT_CTX, model.trained);
  if (model.loaded && model.loaded.size !== size) await unload(model);
  if (!model.loaded) {
    const weights = await llama.loadModel({ modelPath: model.file, gpuLayers: 0 });
    const context = await weights.createContext({ contextSize: size, threads: 1, sequences: 1, batchSize: 512 });
    model.loaded = { weights, context, sequence: context.getSequence(), size };
    counts.loads += 1;
  }
  return model.loaded;
}

function keep(model, wanted) {
  clearTimeout(model.timer);
  if (wanted !== undefined) {
    const found = typeof wanted === "number" ? [0, wanted, "s"] : /^(\d+)(ms|s|m|h)$/.exec(wanted);
    if (!found) throw new Refused(400, `time: invalid duration "${wanted}"`);
    model.keepMs = Number(found[1]) * { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[found[2]];
  }
  model.expires = Date.now() + model.keepMs;
  model.timer = setTimeout(() => { turn = turn.then(() => unload(model)); }, model.keepMs);
  model.timer.unref();
}

// No template: a role and its text on a line each; tools as JSON, which is what a template makes of them, too.
function promptOf(body) {
  const messages = body.messages ?? (body.prompt ? [{ role: "user", content: body.prompt }] : []);
  if (!messages.length) return null;
  const tools = body.tools?.length ? `tools: ${JSON.stringify(body.tools)}\n` : "";
  return `${tools}${messages.map((one) => `${one.role}: ${one.content ?? ""}`).join("\n")}\nassistant: `;
}

async function call(body, chats, response) {
  const began = performance.now();
  const model = modelOf(body);
  const line = (fields) => ({ model: body.model, created_at: new Date().toISOString(), ...fields });
  const piece = (text) => (chats ? { message: { role: "assistant", content: text } } : { response: text });
  const prompt = promptOf(body);
  if (prompt === null && body.keep_alive === 0) {
    await unload(model);
    return answer(response, 200, line({ ...piece(""), done: true, done_reason: "unload" }));
  }
  const loaded = await held(model, body.options?.num_ctx);
  const loadedAt = performance.now();
  keep(model, body.keep_alive);
  if (prompt === null) return answer(response, 200, line({ ...piece(""), done: true, done_reason: "load" }));

  const tokens = loaded.weights.tokenize(prompt);
  if (tokens.length >= loaded.size) throw new Refused(400, "the input length exceeds the context length");
  const most = Math.min(body.options?.num_predict ?? 128, loaded.size - tokens.length - 1);
  const streams = body.stream !== false;
  let said = "", out = 0, first = 0, reason = "length";
  await loaded.sequence.clearHistory();
  counts.calls += 1;
  counts.tokens_in += tokens.length;
  for await (const token of loaded.sequence.evaluate(tokens, { temperature: body.options?.temperature ?? 0 })) {
    first ||= performance.now();
    if (loaded.weights.isEogToken(token)) { reason = "stop"; break; }
    if (response.destroyed) { counts.aborted += 1; return; }
    out += 1;
    counts.tokens_out += 1;
    const text = loaded.weights.detokenize([token]);
    said += text;
    if (streams) {
      if (!response.headersSent) response.writeHead(200, { "content-type": "application/x-ndjson" });
      response.write(`${JSON.stringify(line({ ...piece(text), done: false }))}\n`);
      await new Promise(setImmediate); // else nothing is sent, nor a client that left noticed, before the end
    }
    if (out >= most) break;
  }
  const ended = performance.now();
  keep(model, undefined);
  const final = line({
    ...piece(streams ? "" : said), done: true, done_reason: reason,
    total_duration: ns(ended - began), load_duration: ns(loadedAt - began),
    prompt_eval_count: tokens.length, prompt_eval_duration: ns(first - loadedAt),
    eval_count: out, eval_duration: ns(ended - first),
  });
  if (!streams) return answer(response, 200, final);
  response.end(`${JSON.stringify(final)}\n`);
}

function answer(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

async function bodyOf(request) {
  let raw = "";
  for await (const chunk of request) {
    raw += chunk;
    if (raw.length > BODY_MAX) throw new Refused(413, "request too large");
  }
  try { return raw ? JSON.parse(raw) : {}; } catch { throw new Refused(400, "invalid JSON"); }
}

function ps(model) {
  return {
    ...card(model), size_vram: 0, context_length: model.loaded.size, expires_at: new Date(model.expires).toISOString(),
  };
}

function show(model) {
  const info = { "general.architecture": "llama", "llama.context_length": model.trained };
  return { modelfile: "", parameters: "", template: "", details, model_info: info, capabilities: ["completion", "tools"] };
}

async function route(request, response) {
  const path = new URL(request.url, "http://localhost").pathname;
  const body = request.method === "POST" ? await bodyOf(request) : {};
  switch (`${request.method} ${path}`) {
    case "GET /": return response.end("Ollama is running");
    case "GET /api/version": return answer(response, 200, { version: "0.33.0" });
    case "GET /api/tags": return answer(response, 200, { models: [...models.values()].map(card) });
    case "GET /api/ps": return answer(response, 200, { models: [...models.values()].filter((one) => one.loaded).map(ps) });
    case "POST /api/show": return answer(response, 200, show(modelOf(body)));
    case "POST /api/chat": case "POST /api/generate":
      turn = turn.then(() => call(body, path === "/api/chat", response)).catch((error) => refuse(response, error));
      return turn;
    case "GET /__counts": return answer(response, 200, counts);
    default: return answer(response, 404, { error: "404 page not found" });
  }
}

function refuse(response, error) {
  if (response.headersSent) return response.end(`${JSON.stringify({ error: String(error.message) })}\n`);
  answer(response, error.status ?? 500, { error: String(error.message) });
}

const server = createServer((request, response) => {
  route(request, response).catch((error) => refuse(response, error));
});
server.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ ready: true, url: `http://127.0.0.1:${server.address().port}` }));
});
process.stdin.resume().on("end", () => process.exit(0));
