// Repositories and worktrees as tables: what is registered, and what lies on the hosts' disks and nowhere else.

import { h, lasted, show } from "./dom.js";

const $ = (id) => document.getElementById(id);
const ROWS_MAX = 60;
const EVERY_MS = 15_000;

/** Ask now and then, while `isOn`: they are not in the stream, hosts tell of them each minute. */
export async function watchWorktrees(ask, isOn) {
  clearTimeout(watchWorktrees.timer);
  if (!isOn()) return;
  if (!document.hidden) {
    try {
      showRepos(await ask("GET", "/repos"));
      showWorktrees(await ask("GET", "/worktrees"));
    } catch { /* the line above says what is wrong */ }
  }
  if (isOn()) watchWorktrees.timer = setTimeout(watchWorktrees, EVERY_MS, ask, isOn);
}

/** `found` as GET /repos answers it. */
function showRepos(found) {
  $("repos-section").hidden = found.repos.length === 0;
  $("repos-note").textContent = `${found.repos.length}`;
  show($("repo-rows"), found.repos, (repo) => repo.id, (repo) => h("tr", {},
    h("th", { scope: "row", title: repo.url }, repo.name, h("span", { class: "minor cut" }, repo.url)),
    h("td", {}, repo.default_branch ?? "its HEAD"),
    h("td", {}, repo.hosts.length ? repo.hosts.join(", ") : "all"),
    h("td", { class: "right" }, String(repo.checks.length)),
    h("td", { class: "right" }, repo.live_tasks ? String(repo.live_tasks) : "")));
}

/** `found` as GET /worktrees answers it; those with work that is nowhere else come first. */
function showWorktrees(found) {
  const trees = found.worktrees.filter((tree) => tree.branch !== null);
  trees.sort((a, b) => Number(isOnly(b)) - Number(isOnly(a)) || a.age_s - b.age_s);
  const more = found.hosts.reduce((sum, host) => sum + host.left_out, 0) + Math.max(0, trees.length - ROWS_MAX);
  const only = trees.filter(isOnly).length;
  $("worktrees-section").hidden = trees.length === 0;
  $("worktrees-note").textContent = [`${trees.length}`, only && `${only} with work that is nowhere else`, more && `${more} more not shown`].filter(Boolean).join(", ");
  show($("worktree-rows"), trees.slice(0, ROWS_MAX), (tree) => `${tree.host} ${tree.name}`, worktreeRow);
}

const isOnly = (tree) => !tree.removable && !tree.in_use;

function worktreeRow(tree) {
  const count = (number, sign) => (number ? `${sign}${number}` : null);
  const commits = [count(tree.ahead, "+"), count(tree.behind, "-")].filter(Boolean).join(" ") || "even";
  const diff = tree.files_changed ? `${tree.files_changed} files +${tree.insertions} -${tree.deletions}` : "";
  const left = [tree.uncommitted && `${tree.uncommitted} uncommitted`, tree.unpushed && !tree.merged && `${tree.unpushed} unpushed`].filter(Boolean).join(", ");
  const seen = `seen ${lasted(tree.looked_s * 1000)} ago`;
  const goes = tree.goes_in_s ? `goes in ${lasted(tree.goes_in_s * 1000)}` : "";
  return h("tr", { title: [tree.why, goes, seen].filter(Boolean).join("; ") },
    h("th", { scope: "row" }, `${tree.task ?? tree.name}`, h("span", { class: "minor cut", title: tree.branch }, tree.branch)),
    h("td", {}, tree.host, h("span", { class: "minor" }, tree.in_use ? "in use" : seen)),
    h("td", { class: "right" }, tree.ahead === null ? "" : commits),
    h("td", { class: "right" }, diff),
    h("td", { class: "right" }, left ? h("span", { class: tree.in_use ? "minor" : "minor wait" }, left) : ""));
}
