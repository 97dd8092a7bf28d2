// The credit modulations of empg.credit.modulations, for the page's sliders. A test compares them with the package.
// Arrays have one value per step that counts; the steps of an episode are neighbours, in time order.

const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

// EMPG, arXiv 2509.09265: see empg/credit/modulations/empg.py.
function empg(steps, { k, k_future, zeta, eps }) {
  const { entropy, base, process, episode } = steps, n = entropy.length;
  let low = Infinity, high = -Infinity;
  for (const h of entropy) {
    low = Math.min(low, h);
    high = Math.max(high, h);
  }
  const normalised = entropy.map((h) => (h - low) / (high - low + eps));
  const confidence = normalised.map((h) => Math.exp(-k * h)), middle = mean(confidence);
  const scale = confidence.map((c) => c / middle);
  const clarity = normalised.map((_, i) =>
    i + 1 < n && episode[i + 1] === episode[i] ? Math.exp(-k_future * normalised[i + 1]) : 0);
  const modulated = base.map((a, i) => a * scale[i] + zeta * clarity[i] + process[i]), centre = mean(modulated);
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
  const collect = (keys, values) => {
    const sums = new Map();
    keys.forEach((key, i) => {
      const [count, sum] = sums.get(key) ?? [0, 0];
      sums.set(key, [count + 1, sum + values[i]]);
    });
    return keys.map((key) => sums.get(key)[1] / sums.get(key)[0]);
  };
  const weight = entropy.map((h, i) => (won[i] ? Math.max(h, floor) : 1 / Math.max(h, floor)));
  const level = collect(side.map((s, i) => `${s} ${step[i]}`), weight);
  const shaped = weight.map((w, i) =>
    alpha_1 * (won[i] ? reward[i] : -1) + (alpha_2 * (won[i] ? w : -w)) / level[i]);
  const middle = collect(side, shaped), centred = shaped.map((r, i) => r - middle[i]);
  const spread = collect(side, centred.map((c) => c * c)).map(Math.sqrt);
  return { advantage: centred.map((c, i) => c / Math.max(spread[i], floor) + process[i]) };
}

const EPS = 1e-8;

// By name: the constants with their defaults, and the rule.
export const RULES = {
  centred: { options: {}, modulate: (s) => empg(s, { k: 0, k_future: 1, zeta: 0, eps: EPS }) },
  clarity: { options: { k_future: 1, zeta: 0.1, eps: EPS }, modulate: (s, o) => empg(s, { ...o, k: 0 }) },
  empg: { options: { k: 1, k_future: 1, zeta: 0.1, eps: EPS }, modulate: empg },
  gtpo: { options: { alpha_1: 1, alpha_2: 0.1, floor: 1e-4 }, modulate: gtpo },
  scaling: { options: { k: 1, eps: EPS }, modulate: (s, o) => empg(s, { ...o, k_future: 1, zeta: 0 }) },
};

// The credit of all steps of an iteration; null for a step that does not count. The rule "" is the base algorithm.
export function recompute(iteration, rule, options) {
  const places = iteration.counted.flatMap((counted, i) => (counted ? [i] : []));
  const pick = (values) => places.map((i) => values[i] ?? 0);
  const steps = Object.fromEntries(
    ["entropy", "base", "process", "episode", "group", "reward"].map((name) => [name, pick(iteration[name])]));
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
