// Budgets as a table: what each allows, what is spent, reserved and left, and how many tasks it holds.

import { h, show } from "./dom.js";

const $ = (id) => document.getElementById(id);
const usd = (amount) => (Number.isFinite(amount) ? amount.toFixed(2) : "");

/** `found` as GET /budgets answers it; the section is there once money was spent or a budget was set. */
export function showBudgets(found) {
  const spent = found.counted_usd;
  $("budgets-section").hidden = found.budgets.length === 0 && spent.ever === 0;
  const held = found.held ? `, ${found.held} held` : "";
  $("budgets-note").textContent = `${usd(spent.day)} USD today, ${usd(spent.month)} this month${held}`;
  $("budgets-table").hidden = found.budgets.length === 0;
  $("budgets-empty").hidden = found.budgets.length > 0;
  show($("budget-rows"), found.budgets, (budget) => `${budget.key} ${budget.per}`, (budget) => budgetRow(budget, found.attempt_usd));
}

function budgetRow(budget, attempt) {
  const isReached = budget.left_usd < attempt;
  const isLow = budget.left_usd <= budget.usd * 0.2;
  const state = isReached ? h("span", { class: "minor bad" }, "reached") : isLow ? h("span", { class: "minor wait" }, "nearly reached") : null;
  const when = budget.per === "ever" ? "ever" : `per ${budget.per}`;
  return h("tr", {},
    h("th", { scope: "row" }, budget.key, h("span", { class: "minor" }, ` ${when}`), state),
    [budget.usd, budget.spent_usd, budget.reserved_usd, budget.left_usd].map((amount) => h("td", { class: "right" }, usd(amount))),
    h("td", { class: "right" }, budget.held ? String(budget.held) : ""));
}

/** What an event of a budget says beside its name. */
export function budgetDetail(event) {
  const when = event.per === "ever" ? "ever" : `per ${event.per}`;
  if (event.event === "budget_set") return event.usd === null ? `${when}, taken back` : `${usd(event.usd)} USD ${when}`;
  return `${usd(event.left_usd)} of ${usd(event.usd)} USD ${when} are left`;
}
