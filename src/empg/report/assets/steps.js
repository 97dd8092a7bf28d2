// The step view. Text is inserted by `textContent` only, so output of models and environments is shown as text.
(() => {
  "use strict";
  const { steps } = JSON.parse(document.getElementById("report-data").textContent);
  const section = document.getElementById("steps");
  if (!section) return;
  const make = (tag, className = "", text = "") => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    return element;
  };
  const signed = (v) => (v === null ? "–" : `${v < 0 ? "\u2212" : "+"}${Math.abs(v).toFixed(2)}`);
  const plain = (v) => (v === null ? "–" : v.toFixed(2));

  // A bar that fills `share` of a track. In a two-sided track it starts in the middle and goes left below zero.
  function gauge(symbol, title, value, share, kind) {
    const box = make("div", "gauge"), track = make("div", `track ${kind}`), bar = make("i");
    const two = kind.startsWith("two");
    bar.style.width = `${Math.min(1, Math.abs(share) || 0) * (two ? 50 : 100)}%`;
    if (two && share < 0) bar.className = "minus";
    track.append(bar);
    box.title = title;
    box.append(make("span", "", symbol), track, make("b", "", value));
    return box;
  }

  function gauges(turn, largest) {
    const box = make("div", "gauges");
    box.append(
      gauge("H", "step entropy, nats", plain(turn.entropy), turn.entropy / largest.entropy, "entropy"),
    );
    if (turn.g !== null) {
      box.append(
        gauge("g", "gradient scaling; the middle is 1", plain(turn.g), (turn.g - 1) / largest.scaling, "two scale"),
      );
    }
    if (turn.f !== null) box.append(gauge("f", "clarity of the next step, 0 to 1", plain(turn.f), turn.f, "clarity"));
    box.append(
      gauge("A", "final advantage", signed(turn.advantage), turn.advantage / largest.advantage, "two advantage"),
    );
    return box;
  }

  function step(turn, largest) {
    const row = make("li", turn.dropped ? "step dropped" : "step"), text = make("div", "text");
    row.id = `step-${turn.turn}`;
    row.tabIndex = -1;
    text.append(make("p", "observation", turn.observation));
    if (turn.thought) text.append(make("p", "thought", turn.thought));
    const action = make("p", "action", turn.action || "(no action)");
    if (turn.fault) action.append(make("span", "flag", turn.fault));
    if (turn.dropped) action.append(make("span", "flag", "dropped from the update"));
    if (turn.reward) action.append(make("span", "flag good", `reward ${signed(turn.reward)}`));
    if (turn.process) action.append(make("span", "flag", `process reward ${signed(turn.process)}`));
    text.append(action);
    row.append(make("span", "number", `${turn.turn + 1}`), text, gauges(turn, largest));
    return row;
  }

  // Overview of the episode: entropy above, advantage below, one column per step.
  function strip(episode, largest) {
    const box = make("div", "strip");
    for (const turn of episode.turns) {
      const link = make("a", "column"), above = make("span", "above"), below = make("span", "below");
      const entropy = make("i"), advantage = make("i", turn.advantage < 0 ? "minus" : "");
      link.href = `#step-${turn.turn}`;
      link.title = `step ${turn.turn + 1}: H ${plain(turn.entropy)} nats, A ${signed(turn.advantage)}`;
      link.setAttribute("aria-label", link.title);
      entropy.style.height = `${largest.entropy ? (100 * (turn.entropy ?? 0)) / largest.entropy : 0}%`;
      advantage.style.height = `${largest.advantage ? (50 * Math.abs(turn.advantage ?? 0)) / largest.advantage : 0}%`;
      above.append(entropy);
      below.append(advantage);
      link.append(above, below);
      box.append(link);
    }
    const labels = make("div", "strip-labels");
    labels.append(make("span", "", "entropy H"), make("span", "", "advantage A"));
    const whole = make("div", "strip-box");
    whole.append(labels, box);
    return whole;
  }

  function showEpisode(episode, largest) {
    const head = make("div", "episode-head");
    head.append(
      make("h3", "", episode.task),
      make("p", "quiet", `${episode.type} · ${episode.end} after ${episode.turns.length} turns · ` +
        `score ${plain(episode.score)} · outcome advantage ${[...new Set(episode.outcome.map(signed))].join(" to ") || "–"}`),
    );
    const list = make("ol", "turns");
    list.append(...episode.turns.map((turn) => step(turn, largest)));
    section.querySelector(".episode").replaceChildren(head, strip(episode, largest), list);
  }

  function showIteration(chosen) {
    const tabs = section.querySelector(".episodes");
    tabs.replaceChildren();
    section.querySelector(".episode").replaceChildren();
    section.querySelector(".count").textContent =
      chosen.problem ?? `${chosen.episodes.length} of ${chosen.total} episodes`;
    const buttons = chosen.episodes.map((episode) => {
      const button = make("button", episode.won ? "won" : "lost");
      button.type = "button";
      button.append(
        make("span", "outcome", episode.won ? "✓ won" : `✗ ${episode.end}`),
        make("span", "", `group ${episode.group} · ${episode.turns.length} turns`),
      );
      button.addEventListener("click", () => {
        buttons.forEach((b) => b.setAttribute("aria-pressed", b === button));
        showEpisode(episode, chosen.largest);
      });
      return button;
    });
    tabs.append(...buttons);
    buttons[0]?.click();
  }

  const select = section.querySelector("select");
  select.addEventListener("change", () => showIteration(steps[+select.value]));
  showIteration(steps[0]);
})();
