// Follows the runs: fetches the numbers of the curves again, as long as the page is visible and the box is ticked.
const box = document.querySelector("input[name=live]"), status = document.querySelector("[data-live]");
let last = "";
setInterval(async () => {
  if (!box.checked || document.hidden) return;
  try {
    const answer = await fetch(`/curves.json${location.search}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    if (text === last) return;
    last = text;
    const charts = JSON.parse(text);
    if (charts.length !== document.querySelectorAll("figure[data-chart]").length) {
      location.reload();
      return;
    }
    document.dispatchEvent(new CustomEvent("new-charts", { detail: charts }));
    status.textContent = `numbers of ${new Date().toLocaleTimeString()}`;
  } catch {
    status.textContent = "the server does not answer";
  }
}, 5000);
