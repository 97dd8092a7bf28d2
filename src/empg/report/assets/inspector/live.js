// Follows the runs: fetches the numbers of the curves again, as long as the page is visible and the box is ticked.
// A server that does not answer is asked again until it does.
const PAUSE = 5000, LIMIT = 20000; // milliseconds between requests, and for an answer
const box = document.querySelector("input[name=live]"), status = document.querySelector("[data-live]");
let last = "";

async function ask() {
  const answer = await fetch(`/curves.json${location.search}`, { signal: AbortSignal.timeout(LIMIT) });
  if (!answer.ok) throw new Error(answer.statusText);
  const text = await answer.text();
  const charts = JSON.parse(text);
  const titles = [...document.querySelectorAll("figure[data-chart] h2 bdi")].map((title) => title.textContent);
  if (charts.length !== titles.length || charts.some((chart, i) => chart.title !== titles[i])) {
    location.reload(); // a metric is new: the page has no figure for it
    return;
  }
  if (text === last) return;
  last = text;
  document.dispatchEvent(new CustomEvent("new-charts", { detail: charts }));
  status.textContent = `numbers of ${new Date().toLocaleTimeString()}`;
}

async function follow() {
  if (box.checked && !document.hidden) {
    try {
      await ask();
    } catch {
      status.textContent = "The server does not answer. Trying again.";
      last = "";
    }
  }
  setTimeout(follow, PAUSE);
}
setTimeout(follow, PAUSE);
