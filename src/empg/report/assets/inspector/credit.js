// The credit modulations of empg.credit.modulations, for the page's form. A test compares them with the package.
// Arrays have one value per step that counts; the steps of an episode are neighbours, in time order.

const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

// For each value, the number and the mean of the values that have the same key.
function within(keys, values) {
  const sums = new Map();
  keys.forEach((key, i) => {
    const [count, sum] = sums.get(key) ?? [0, 0];
    sums.set(key, [count + 1, sum + values[i]]);
  });
  return { count: keys.map((key) => sums.get(key)[0]), mean: keys.map((key) => sums.get(key)[1] / sums.get(key)[0]) };
}

// The entropies that become Hn = 0 and Hn = 1; `q` is the share of the steps left out at either end.
function bounds(entropy, q) {
  const sorted = Float64Array.from(entropy).sort(), outside = Math.floor(q * sorted.length);
  return [sorted[outside], sorted[sorted.length - 1 - outside]];
}

// EMPG, arXiv 2509.09265, and its variants: see empg/credit/modulations/empg.py and empg_variant.py.
function empg(steps, options) {
  const { k, k_future, zeta, eps, normalisation, q, scaling, clarity: bonus, centring, zeta_schedule } = options;
  const { entropy, base, process, episode, finished } = steps, n = entropy.length;
  const [low, high] = bounds(entropy, normalisation === "quantile" ? q : 0);
  const normalised = entropy.map((h) => Math.min(1, Math.max(0, (h - low) / (high - low + eps))));
  const weights = normalised.map((h) => Math.exp(-k * (scaling === "uncertain" ? 1 - h : h))), middle = mean(weights);
  const scale = weights.map((w) => w / middle);
  const own = normalised.map((h) => Math.exp(-k_future * h));
  const next = own.map((_, i) => (i + 1 < n && episode[i + 1] === episode[i] ? own[i + 1] : bonus === "won_end" ? 1 : 0));
  const clarity = next.map((f, i) => {
    if (bonus === "won" || bonus === "won_end") return base[i] > 0 ? f : 0;
    return bonus === "potential" ? f - own[i] : f;
  });
  const weight = zeta_schedule === "linear" ? zeta * (1 - finished) : zeta;
  const modulated = base.map((a, i) => a * scale[i] + weight * clarity[i] + process[i]);
  const gradient = steps.all_entropy.map((h) => -Math.expm1(-h)), size = mean(gradient);
  const centre = centring === "gradient" && size > 0 ? mean(modulated.map((a, i) => a * gradient[i])) / size : mean(modulated);
  return { normalised, scale, clarity, advantage: modulated.map((a) => a - centre) };
}

// GTPO for steps, arXiv 2508.04349: see empg/credit/modulations/gtpo.py.
function gtpo(steps, { alpha_1, alpha_2, floor }) {
  const { entropy, process, episode, group, reward } = steps;
  const won = reward.map((r) => r > 0), first = new Map();
  const step = episode.map((e, i) => {
    if (!first.has(e)) first.set(e, i);
    return i - first.get(e);
  });
  const side = entropy.map((_, i) => `${group[i]} ${won[i]}`);
  const weight = entropy.map((h, i) => (won[i] ? Math.max(h, floor) : 1 / Math.max(h, floor)));
  const level = within(side.map((s, i) => `${s} ${step[i]}`), weight).mean;
  const shaped = weight.map((w, i) =>
    alpha_1 * (won[i] ? reward[i] : -1) + (alpha_2 * (won[i] ? w : -w)) / level[i]);
  const middle = within(side, shaped).mean, centred = shaped.map((r, i) => r - middle[i]);
  const spread = within(side, centred.map((c) => c * c)).mean.map(Math.sqrt);
  return { advantage: centred.map((c, i) => c / Math.max(spread[i], floor) + process[i]) };
}

// GRPO-S, arXiv 2508.04349: see empg/credit/modulations/grpo_s.py. One value per episode up to the last line.
function grpo_s(steps, { beta_1, beta_2, floor }) {
  const { entropy, process, episode, group, reward } = steps;
  const first = episode.flatMap((e, i) => (i && episode[i - 1] === e ? [] : [i]));
  const level = within(episode, entropy).mean, of = first.map((i) => group[i]);
  const won = first.map((i) => reward[i] > 0);
  const weight = first.map((i, e) => (won[e] ? Math.max(level[i], floor) : 1 / Math.max(level[i], floor)));
  const share = within(of.map((g, e) => `${g} ${won[e]}`), weight).mean.map((m, e) => weight[e] / m);
  const shaped = first.map((i, e) => (won[e] ? beta_1 * reward[i] + beta_2 * share[e] : -beta_1 - beta_2 * share[e]));
  const { mean: middle, count } = within(of, shaped), centred = shaped.map((r, e) => r - middle[e]);
  const variance = within(of, centred.map((c) => c * c)).mean.map((v, e) => (v * count[e]) / Math.max(count[e] - 1, 1));
  const advantage = new Map(first.map((i, e) => [episode[i], centred[e] / (Math.sqrt(variance[e]) + floor)]));
  return { advantage: episode.map((e, i) => advantage.get(e) + process[i]) };
}

const EPS = 1e-8;
const PLAIN = { normalisation: "minmax", q: 0.05, scaling: "confident", clarity: "bonus", centring: "mean", zeta_schedule: "constant" };

// Values of the options that are names.
export const CHOICES = {
  entropy: ["turn", "action"],
  normalisation: ["minmax", "quantile"], scaling: ["confident", "uncertain"], clarity: ["bonus", "won", "won_end", "potential"],
  centring: ["mean", "gradient"], zeta_schedule: ["constant", "linear"],
};

// By name: the options with their defaults, and the rule.
export const RULES = {
  centred: { options: {}, modulate: (s) => empg(s, { k: 0, k_future: 1, zeta: 0, eps: EPS }) },
  clarity: { options: { k_future: 1, zeta: 0.1, eps: EPS }, modulate: (s, o) => empg(s, { ...o, k: 0 }) },
  empg: { options: { k: 1, k_future: 1, zeta: 0.1, eps: EPS }, modulate: empg },
  empg_variant: { options: { k: 1, k_future: 1, zeta: 0.1, eps: EPS, ...PLAIN }, modulate: empg },
  grpo_s: { options: { beta_1: 1, beta_2: 0.1, floor: 1e-4 }, modulate: grpo_s },
  gtpo: { options: { alpha_1: 1, alpha_2: 0.1, floor: 1e-4 }, modulate: gtpo },
  scaling: { options: { k: 1, eps: EPS }, modulate: (s, o) => empg(s, { ...o, k_future: 1, zeta: 0 }) },
};

// The options of a rule with their defaults. `entropy: action` needs a column that not every run has.
export function optionsOf(rule, iteration) {
  const options = RULES[rule]?.options ?? {};
  return rule === "empg_variant" && iteration.action_entropy ? { entropy: "turn", ...options } : { ...options };
}

// The credit of all steps of an iteration; null for a step that does not count. The rule "" is the base algorithm.
export function recompute(iteration, rule, options) {
  const places = iteration.counted.flatMap((counted, i) => (counted ? [i] : []));
  const pick = (values) => places.map((i) => Math.fround(values[i] ?? 0)); // the package computes in float32
  const steps = Object.fromEntries(
    ["entropy", "base", "process", "episode", "group", "reward"].map((name) => [name, pick(iteration[name])]));
  steps.finished = iteration.finished;
  steps.all_entropy = steps.entropy; // the gradient of a step is that of all its tokens
  if (options.entropy === "action") steps.entropy = pick(iteration.action_entropy);
  const plain = steps.base.map((a, i) => a + steps.process[i]);
  const credit = !places.length ? {} : rule
    ? RULES[rule].modulate(steps, { ...RULES[rule].options, ...options }) : { advantage: plain };
  const spread = (values) => {
    const all = Array(iteration.counted.length).fill(null);
    values?.forEach((v, i) => { all[places[i]] = v; });
    return all;
  };
  return {
    normalised: spread(credit.normalised), scale: spread(credit.scale), clarity: spread(credit.clarity),
    advantage: spread(credit.advantage), plain: spread(plain),
  };
}
