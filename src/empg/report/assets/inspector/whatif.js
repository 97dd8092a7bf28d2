// What if: other constants, or another rule, for the whole iteration. The choice is kept in the address.
import { CHOICES, RULES, optionsOf, recompute } from "./credit.js";

const panel = document.getElementById("what-if");
const iteration = JSON.parse(document.getElementById("credit-data").textContent);
const SLIDER_MAX = { k: 5, k_future: 5, zeta: 1, alpha_1: 2, alpha_2: 2, beta_1: 2, beta_2: 2, q: 0.49 };
const ADDRESS_MAX = 50; // of any constant in an address: beyond it the package refuses k where scaling is uncertain
const VALID_MAX = { q: 0.49 }; // of the constants that a rule bounds
const NAMES = {
  k: "k", k_future: "k′", zeta: "ζ", alpha_1: "α₁", alpha_2: "α₂", beta_1: "β₁", beta_2: "β₂", zeta_schedule: "ζ over the run",
};
const RECORDED = "recorded";
const SAME = 2e-3; // of A: rounding in float32 reaches 1e-3 where a rule divides a tiny difference by its floor
const rules = panel.querySelector("select"), beside = panel.querySelector("input[name=beside]");
const form = panel.querySelector(".sliders"), summary = panel.querySelector("[role=status]");
const places = new Map(iteration.episode.map((e, i) => [`${e}.${iteration.turn[i]}`, i]));
const signed = (v) => (v === null ? "–" : `${v < 0 ? "\u2212" : "+"}${Math.abs(v).toFixed(3)}`);
const plain = (v) => (v === null ? "–" : v.toFixed(3));
const known = (name, value) =>
  name in CHOICES ? CHOICES[name].includes(value)
    : typeof value === "number" && value >= 0 && value <= (VALID_MAX[name] ?? Infinity);

// The values that a rule begins with: for the rule of the run those of its recipe.
const usable = (rule) => ([name, value]) => name in optionsOf(rule, iteration) && known(name, value);
const defaults = (rule) => (rule === iteration.rule
  ? { ...optionsOf(rule, iteration), ...Object.fromEntries(Object.entries(iteration.options).filter(usable(rule))) }
  : optionsOf(rule, iteration));

const credit = (rule, values) => (rule === RECORDED
  ? { ...iteration.recorded, advantage: iteration.advantage, plain: recompute(iteration, "", {}).plain }
  : recompute(iteration, rule, values));
const change = ({ advantage }) => advantage.reduce((most, v, i) =>
  (v === null ? most : Math.max(most, Math.abs(v - (iteration.advantage[i] ?? 0)))), 0);

// Why the rule of the run cannot be recomputed here; empty if it can.
function limit() {
  if (iteration.rule === "?") return "The recipe of the run does not name a rule. The recorded credit is shown.";
  if (iteration.rule !== "" && !Object.hasOwn(RULES, iteration.rule))
    return `This page cannot recompute the rule ${iteration.rule}. The recorded credit is shown.`;
  const away = change(credit(iteration.rule, defaults(iteration.rule)));
  if (away < SAME) return "";
  const others = Object.entries(iteration.options).filter((option) => !usable(iteration.rule)(option))
    .map(([name, value]) => `${name}: ${value}`);
  return `This page cannot recompute the credit of this run (A differs by up to ${away.toPrecision(2)}). ` +
    `${others.length ? `It does not know ${others.join(", ")}. ` : ""}The recorded credit is shown.`;
}

function slider(name, values, changed) {
  const label = document.createElement("label"), input = document.createElement("input"), output = document.createElement("output");
  Object.assign(input, { type: "range", min: 0, max: Math.max(SLIDER_MAX[name], values[name]), step: 0.01, name });
  input.value = values[name];
  input.setAttribute("aria-label", NAMES[name] ?? name);
  // The input rounds a value to its steps. What is computed with, and so what is shown, is the value itself.
  const say = (value) => {
    output.textContent = +value.toFixed(2) === value ? value.toFixed(2) : `${value}`;
    input.setAttribute("aria-valuetext", output.textContent);
  };
  say(values[name]);
  input.addEventListener("input", () => {
    say(+input.value);
    changed(+input.value);
  });
  label.append(`${NAMES[name] ?? name} `, input, output);
  return label;
}

function choice(name, values, changed) {
  const label = document.createElement("label"), select = document.createElement("select");
  select.append(...CHOICES[name].map((value) => new Option(value)));
  Object.assign(select, { name, value: values[name] });
  select.addEventListener("change", () => changed(select.value));
  label.append(`${NAMES[name] ?? name} `, select);
  return label;
}

let current = {};
function drawForm(rule, values) {
  current = values;
  form.replaceChildren(...Object.keys(values).filter((name) => name in CHOICES || name in SLIDER_MAX).map((name) =>
    (name in CHOICES ? choice : slider)(name, values, (value) => {
      values[name] = value;
      update(rule, values);
    })));
}

// The first chart of a batch page has one dot per step, which its link names.
const drawn = document.getElementById("report-data");
const charts = drawn ? JSON.parse(drawn.textContent).charts : [];
const dots = (charts[0]?.links ?? []).map((link) => {
  const address = new URL(link, location);
  return `${address.searchParams.get("episode")}.${address.hash.replace("#step-", "")}`;
});
let waiting = 0;
function redraw(advantage) {
  if (!dots.length) return;
  const series = charts[0].series.map((s) => ({
    ...s, values: s.values.map((v, i) => (v === null ? null : advantage[places.get(dots[i])])),
  }));
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() =>
    document.dispatchEvent(new CustomEvent("new-charts", { detail: [{ ...charts[0], series }, ...charts.slice(1)] })));
}

function remember(rule, values) {
  const address = new URL(location), own = defaults(rule);
  for (const name of ["rule", "beside", ...Object.keys(SLIDER_MAX), ...Object.keys(CHOICES)]) address.searchParams.delete(name);
  if (rule !== start) address.searchParams.set("rule", rule || "none");
  Object.entries(values).filter(([name, v]) => v !== own[name]).forEach(([name, v]) => address.searchParams.set(name, v));
  if (beside.checked) address.searchParams.set("beside", "1");
  history.replaceState(null, "", address);
}

function update(rule, values) {
  const found = credit(rule, values);
  const flips = (i) => found.advantage[i] !== null && found.advantage[i] * found.plain[i] < 0;
  document.querySelectorAll("[data-step]").forEach((row) => {
    const i = places.get(row.dataset.step);
    const show = (term, text) => row.querySelectorAll(`[data-term=${term}]`).forEach((cell) => { cell.textContent = text; });
    show("Hn", plain(found.normalised[i]));
    show("g", plain(found.scale[i]));
    show("f", plain(found.clarity[i]));
    show("A", signed(found.advantage[i]));
    row.querySelectorAll("[data-term=flips]").forEach((mark) => { mark.hidden = !(beside.checked && flips(i)); });
  });
  document.body.classList.toggle("beside", beside.checked);
  const counted = found.advantage.flatMap((v, i) => (v === null ? [] : [i]));
  const changed = counted.filter(flips), away = change(found);
  summary.textContent = `${rule === start && reason ? `${reason} ` : ""}${counted.length} steps count in this iteration. ` +
    `${changed.length} have another sign than under the base algorithm. ` +
    `Largest change from the recorded A: ${away < 5e-6 ? "none" : away < 1e-3 ? "below 0.001" : away.toFixed(3)}.`;
  const worst = changed.sort((a, b) => Math.abs(found.advantage[b] - found.plain[b]) - Math.abs(found.advantage[a] - found.plain[a]));
  panel.querySelector("ol").replaceChildren(...worst.slice(0, 10).map((i) => {
    const item = document.createElement("li"), link = document.createElement("a");
    const address = new URL("/episode", location);
    address.search = location.search;
    address.searchParams.set("iteration", panel.dataset.iteration);
    address.searchParams.set("episode", iteration.episode[i]);
    address.hash = `step-${iteration.turn[i]}`;
    link.href = address;
    link.textContent = `episode ${iteration.episode[i]}, step ${iteration.turn[i] + 1}`;
    item.append(link, `: base ${signed(found.plain[i])}, A ${signed(found.advantage[i])}`);
    return item;
  }));
  panel.querySelector("details").hidden = !changed.length;
  redraw(found.advantage);
  remember(rule, values);
}

function choose(rule, values) {
  rules.value = rule;
  drawForm(rule, values);
  update(rule, values);
}

const reason = limit(), start = reason ? RECORDED : iteration.rule;
if (reason) rules.append(new Option("as recorded", RECORDED));
for (const name of ["", ...Object.keys(RULES)])
  rules.append(new Option(`${name || "none (base algorithm)"}${name === start ? ", as recorded" : ""}`, name));
rules.addEventListener("change", () => choose(rules.value, defaults(rules.value)));
beside.addEventListener("change", () => update(rules.value, current));
panel.querySelector("button").addEventListener("click", () => choose(start, defaults(start)));

// What the address asks for.
const asked = new URLSearchParams(location.search), wanted = asked.get("rule") === "none" ? "" : asked.get("rule") ?? start;
const rule = wanted === "" || Object.hasOwn(RULES, wanted) ? wanted : start, values = defaults(rule);
for (const name of Object.keys(values)) {
  const value = name in CHOICES ? asked.get(name) : Number.parseFloat(asked.get(name));
  if ((name in SLIDER_MAX && value <= ADDRESS_MAX || name in CHOICES) && known(name, value)) values[name] = value;
}
beside.checked = asked.get("beside") === "1";
choose(rule, values);
