// What if: other constants, or another rule, for the whole iteration. The choice is kept in the address.
import { RULES, recompute } from "./credit.js";

const panel = document.getElementById("what-if");
const iteration = JSON.parse(document.getElementById("credit-data").textContent);
const SLIDERS = { k: 5, k_future: 5, zeta: 1, alpha_1: 2, alpha_2: 2 }; // name and largest value
const NAMES = { k: "k", k_future: "k′", zeta: "ζ", alpha_1: "α₁", alpha_2: "α₂" };
const rules = panel.querySelector("select"), beside = panel.querySelector("input[name=beside]");
const sliders = panel.querySelector(".sliders"), summary = panel.querySelector("[role=status]");
const known = iteration.rule === "" || iteration.rule in RULES;
const places = new Map(iteration.episode.map((e, i) => [`${e}.${iteration.turn[i]}`, i]));
const signed = (v) => (v === null ? "–" : `${v < 0 ? "\u2212" : "+"}${Math.abs(v).toFixed(3)}`);
const plain = (v) => (v === null ? "–" : v.toFixed(3));

// The constants of the run hold for its own rule and, where it has the same names, for the others.
const constants = (rule) => ({
  ...RULES[rule]?.options,
  ...Object.fromEntries(Object.entries(iteration.options).filter(([name]) => name in (RULES[rule]?.options ?? {}))),
});

function drawSliders(rule, values) {
  sliders.replaceChildren(...Object.keys(values).filter((name) => name in SLIDERS).map((name) => {
    const label = document.createElement("label"), input = document.createElement("input"), output = document.createElement("output");
    Object.assign(input, { type: "range", min: 0, max: Math.max(SLIDERS[name], values[name]), step: 0.01, name });
    input.value = values[name];
    input.setAttribute("aria-label", NAMES[name]);
    output.textContent = (+input.value).toFixed(2);
    input.addEventListener("input", () => {
      output.textContent = (+input.value).toFixed(2);
      values[name] = +input.value;
      update(rule, values);
    });
    label.append(`${NAMES[name]} `, input, output);
    return label;
  }));
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
  const address = new URL(location);
  for (const name of ["rule", ...Object.keys(SLIDERS)]) address.searchParams.delete(name);
  const own = rule === iteration.rule ? constants(rule) : RULES[rule]?.options ?? {};
  const changed = Object.entries(values).filter(([name, v]) => name in SLIDERS && v !== own[name]);
  if (rule !== iteration.rule) address.searchParams.set("rule", rule || "none");
  changed.forEach(([name, v]) => address.searchParams.set(name, v));
  address.searchParams.delete("beside");
  if (beside.checked) address.searchParams.set("beside", "1");
  history.replaceState(null, "", address);
}

function update(rule, values) {
  const credit = recompute(iteration, rule, values);
  const flips = (i) => credit.advantage[i] !== null && credit.advantage[i] * credit.plain[i] < 0;
  document.querySelectorAll("[data-step]").forEach((row) => {
    const i = places.get(row.dataset.step);
    const show = (term, text) => row.querySelectorAll(`[data-term=${term}]`).forEach((cell) => { cell.textContent = text; });
    show("Hn", plain(credit.normalised[i]));
    show("g", plain(credit.scale[i]));
    show("f", plain(credit.clarity[i]));
    show("A", signed(credit.advantage[i]));
    row.querySelectorAll("[data-term=flips]").forEach((mark) => { mark.hidden = !(beside.checked && flips(i)); });
  });
  document.body.classList.toggle("beside", beside.checked);
  const counted = credit.advantage.flatMap((v, i) => (v === null ? [] : [i]));
  const changed = counted.filter(flips);
  const away = Math.max(0, ...counted.map((i) => Math.abs(credit.advantage[i] - (iteration.advantage[i] ?? 0))));
  summary.textContent = `${counted.length} steps count in this iteration. ${changed.length} have another sign than under ` +
    `the base algorithm. Largest change from the recorded A: ${away < 5e-6 ? "none" : away.toFixed(3)}.`;
  const worst = changed.sort((a, b) => Math.abs(credit.advantage[b] - credit.plain[b]) - Math.abs(credit.advantage[a] - credit.plain[a]));
  panel.querySelector("ol").replaceChildren(...worst.slice(0, 10).map((i) => {
    const item = document.createElement("li"), link = document.createElement("a");
    const address = new URL("/episode", location);
    address.search = location.search;
    address.searchParams.set("iteration", panel.dataset.iteration);
    address.searchParams.set("episode", iteration.episode[i]);
    address.hash = `step-${iteration.turn[i]}`;
    link.href = address;
    link.textContent = `episode ${iteration.episode[i]}, step ${iteration.turn[i] + 1}`;
    item.append(link, `: base ${signed(credit.plain[i])}, A ${signed(credit.advantage[i])}`);
    return item;
  }));
  panel.querySelector("details").hidden = !changed.length;
  redraw(credit.advantage);
  remember(rule, values);
}

function choose(rule, values) {
  drawSliders(rule, values);
  update(rule, values);
}
if (known) {
  const asked = new URLSearchParams(location.search);
  const wanted = asked.get("rule") === "none" ? "" : asked.get("rule") ?? iteration.rule;
  const rule = wanted === "" || Object.hasOwn(RULES, wanted) ? wanted : iteration.rule;
  const values = rule === iteration.rule ? constants(rule) : { ...RULES[rule]?.options };
  for (const name of Object.keys(values)) {
    const value = Number.parseFloat(asked.get(name));
    if (name in SLIDERS && value >= 0 && value <= 100) values[name] = value;
  }
  for (const name of ["", ...Object.keys(RULES)]) {
    const option = new Option(`${name || "none (base algorithm)"}${name === iteration.rule ? ", as recorded" : ""}`, name);
    rules.append(option);
  }
  rules.value = rule;
  beside.checked = asked.get("beside") === "1";
  rules.addEventListener("change", () => choose(rules.value, rules.value === iteration.rule ? constants(rules.value) : { ...RULES[rules.value]?.options }));
  const current = () => Object.fromEntries([...sliders.querySelectorAll("input")].map((input) => [input.name, +input.value]));
  beside.addEventListener("change", () => update(rules.value, { ...constants(rules.value), ...current() }));
  panel.querySelector("button").addEventListener("click", () => {
    rules.value = iteration.rule;
    choose(iteration.rule, constants(iteration.rule));
  });
  choose(rule, values);
} else {
  panel.querySelector(".controls").hidden = true;
  summary.textContent = iteration.rule === "?"
    ? "The recipe of the run does not name a modulation that this version knows. The recorded credit is shown."
    : `The rule ${iteration.rule} cannot be recomputed in this page. The recorded credit is shown.`;
}
