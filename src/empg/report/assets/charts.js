// Draws the charts of `report-data` with uPlot. Colours come from the page's CSS, so dark mode needs only a redraw.
(() => {
  "use strict";
  let { charts } = JSON.parse(document.getElementById("report-data").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (n) => css(`--series-${n}`);
  const known = (values) => values.filter((v) => v !== null);
  const DASHES = [[], [9, 5], [2, 4]]; // of runs and panels beyond the palette, as in figures
  const isDots = (s) => s.kind === "points" || s.kind === "rings";

  function show(value, unit) {
    if (value === null || value === undefined) return "–";
    if (unit === "percent") return `${+(100 * value).toFixed(Math.abs(value) < 0.1 ? 2 : 1)}%`;
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
    return size >= 100 ? value.toFixed(0) : `${+value.toPrecision(3)}`;
  }

  // One series at an index, as text; `at` picks the value of a column.
  const reading = (s, at, unit) =>
    (s.kind === "band" ? `${show(at(s.low), unit)} to ${show(at(s.high), unit)}` : show(at(s.values), unit));

  // Running sums from the last series up, so that the first of a legend is on top.
  function stacked(series) {
    let below = null;
    return series.reduceRight((sums, s) => {
      const base = below;
      below = s.values.map((v, i) => (v ?? 0) + (base ? base[i] : 0));
      sums.unshift(below);
      return sums;
    }, []);
  }

  // One chart's columns in uPlot's order, and for each of the chart's series the column that its value is read from.
  function columns(chart) {
    const data = [chart.x], series = [{}], bands = [];
    const stack = chart.series.filter((s) => s.kind === "stack");
    const sums = stacked(stack);
    for (const s of chart.series) {
      const stroke = colour(s.colour), dash = DASHES[s.dashes];
      if (s.kind === "band") {
        data.push(s.high, s.low);
        const edge = { stroke, dash, width: 0.5, alpha: 0.5, points: { show: false } };
        series.push(edge, { ...edge });
        bands.push({ series: [data.length - 2, data.length - 1], fill: colour(s.colour) + "38" });
      } else if (s.kind === "stack") {
        const i = stack.indexOf(s);
        data.push(sums[i]);
        series.push({ stroke, width: 1, fill: stroke + "b0", points: { show: false } });
        if (i > 0) bands.push({ series: [data.length - 2, data.length - 1], fill: colour(stack[i - 1].colour) + "b0" });
      } else if (isDots(s)) {
        data.push(s.values);
        const fill = s.kind === "rings" ? "transparent" : stroke + "a0";
        series.push({ stroke, paths: () => null, points: { show: true, size: 5, width: 1, fill } });
      } else if (s.kind === "bars") {
        data.push(s.values);
        series.push({ stroke, fill: stroke + "b0", width: 0, paths: uPlot.paths.bars({ size: [0.92, 80] }), points: { show: false } });
      } else {
        data.push(s.values);
        const sparse = 2 * known(s.values).length < s.values.length || s.values.length === 1;
        series.push({
          stroke, dash, width: s.kind === "whiskers" || s.colour === 0 ? 1.25 : 2, spanGaps: true,
          points: { show: s.kind === "line" && sparse, size: 7 },
        });
      }
    }
    return { data, series, bands };
  }

  function range(chart, data) {
    const values = known([...data.slice(1), ...chart.series.flatMap((s) => [s.low, s.high])].flat());
    // Not Math.min(...values): a call takes about 100,000 arguments.
    const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const margin = 0.07 * (high - low) || Math.abs(high) * 0.1 || 1;
    const floor = chart.bottom !== null && low >= chart.bottom;
    const least = low >= 0 ? Math.max(0, low - margin) : low - margin; // no space below zero for values that are never negative
    const ceiling = chart.top !== null && high <= chart.top;
    return [floor ? chart.bottom : least, ceiling ? chart.top : high + margin];
  }

  // Dots and their intervals; panels of the same iteration are drawn side by side.
  function whiskers(chart) {
    const drawn = chart.series.filter((s) => s.kind === "whiskers");
    return (u) => {
      const ctx = u.ctx, ratio = devicePixelRatio;
      ctx.save();
      ctx.lineWidth = 1.75 * ratio;
      drawn.forEach((s, place) => {
        ctx.strokeStyle = ctx.fillStyle = colour(s.colour);
        ctx.setLineDash(DASHES[s.dashes].map((length) => length * ratio / 2));
        chart.x.forEach((x, i) => {
          if (s.values[i] === null) return;
          const left = u.valToPos(x, "x", true) + 5 * ratio * (place - (drawn.length - 1) / 2);
          ctx.beginPath();
          ctx.moveTo(left, u.valToPos(s.low[i] ?? s.values[i], "y", true));
          ctx.lineTo(left, u.valToPos(s.high[i] ?? s.values[i], "y", true));
          ctx.stroke();
          ctx.beginPath();
          ctx.arc(left, u.valToPos(s.values[i], "y", true), 3.5 * ratio, 0, 2 * Math.PI);
          ctx.fill();
        });
      });
      ctx.restore();
    };
  }

  function legend(chart, list) {
    const values = chart.series.map((s) => {
      const item = document.createElement("li"), mark = document.createElement("i"), value = document.createElement("b");
      mark.className = `mark ${s.kind} dashes-${s.dashes}`;
      mark.style.color = `var(--series-${s.colour})`;
      item.append(mark, `${s.label} `, value);
      list.append(item);
      return value;
    });
    return (i) => chart.series.forEach((s, n) => { values[n].textContent = read(chart, s, i); });
  }

  // What the key says of a series at an index. A line without a value there has its last one before, with its place.
  function read(chart, s, i) {
    let from = i;
    const column = s.kind === "band" ? s.low : s.values;
    if (!isDots(s) && s.kind !== "bars") from = column.findLastIndex((v, n) => n <= i && v !== null);
    const text = reading(s, (values) => values[from], chart.unit);
    return from === i || from < 0 ? text : `${text} (${chart.x_label} ${chart.x[from]})`;
  }

  function describe(chart) {
    const parts = chart.series.map((s) => {
      const [first, last] = [0, -1].map((place) => reading(s, (values) => known(values).at(place), chart.unit));
      return `${s.label}: ${first} first, ${last} last`;
    });
    const unit = chart.unit && chart.unit !== "percent" ? ` (${chart.unit})` : "";
    return `${chart.title}${unit} by ${chart.x_label}. ${parts.join("; ")}.`;
  }

  function draw(chart, figure) {
    const holder = figure.querySelector(".plot"), caption = figure.querySelector(".at");
    holder.replaceChildren();
    figure.querySelector("ul").replaceChildren();
    holder.setAttribute("role", "img");
    holder.setAttribute("aria-label", describe(chart));
    const { data, series, bands } = columns(chart);
    const update = legend(chart, figure.querySelector("ul"));
    const last = chart.x.length - 1;
    const state = { place: last, chosen: null }; // what the key shows; what a key press asks for
    const settle = (i) => {
      state.place = i ?? last;
      update(state.place);
      const x = chart.x[state.place];
      caption.textContent = `${chart.x_label} ${Number.isInteger(x) ? x : show(x, "")}`;
    };
    // Several dots can have one x, so the pointer reads the dot that is nearest in both directions.
    const dots = chart.series.some(isDots);
    const under = (u, closest) =>
      state.chosen ?? (dots ? nearest(chart, u, u.cursor.left, u.cursor.top, () => true)?.place : null) ?? closest;
    let found = null;
    const dataIdx = (u, n, closest) => (n === 0 ? (found = under(u, closest)) : found);
    const axis = { stroke: css("--quiet"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: css("--rule"), width: 1 };
    const edge = 0.02 * (chart.x[last] - chart.x[0]) || 1;
    const plot = new uPlot(
      {
        width: holder.clientWidth, height: holder.clientHeight, series, bands, legend: { show: false }, padding: [8, 8, 0, 0],
        scales: {
          x: { time: false, range: [chart.x[0] - edge, chart.x[last] + edge] },
          y: { range: range(chart, data) },
        },
        axes: [
          {
            ...axis, grid: { show: false }, size: 24, space: 44,
            ...(chart.x.every(Number.isInteger) && { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3] }),
          },
          { ...axis, grid, size: 52, space: 34, values: (_, ticks) => ticks.map((v) => show(v, chart.unit)) },
        ],
        cursor: { dataIdx, y: false, drag: { x: false, y: false }, sync: { key: chart.x_label }, points: { size: 6 } },
        hooks: { draw: [whiskers(chart)], setCursor: [(u) => settle(u.cursor.idx === null ? null : found)] },
      },
      data, holder,
    );
    settle(null);
    reachable(chart, plot, holder, figure.querySelector(".key"), state);
    if (chart.links?.length) {
      plot.over.classList.add("clickable");
      plot.over.addEventListener("click", (event) => {
        const dot = nearest(chart, plot, event.offsetX, event.offsetY, (i) => chart.links[i]);
        if (dot && dot.away < 12) location.assign(chart.links[dot.place]);
      });
    }
    return plot;
  }

  // Keys do what the pointer does: arrows read values, which a screen reader says, and Enter opens the step of a dot.
  function reachable(chart, plot, holder, key, state) {
    const last = chart.x.length - 1;
    const target = (pressed) => ({
      ArrowLeft: Math.max(0, state.place - 1), ArrowRight: Math.min(last, state.place + 1), Home: 0, End: last,
    })[pressed];
    holder.tabIndex = 0;
    holder.onfocus = () => key.setAttribute("aria-live", "polite");
    holder.onblur = () => key.removeAttribute("aria-live");
    holder.onkeydown = (event) => {
      if (event.key === "Enter" && chart.links?.[state.place]) location.assign(chart.links[state.place]);
      if (target(event.key) === undefined) return;
      event.preventDefault();
      state.chosen = target(event.key);
      plot.setCursor({ left: plot.valToPos(chart.x[state.chosen], "x"), top: 0 });
      state.chosen = null;
    };
  }

  // The dot or bar that is nearest to a place in the plot, among those whose index passes, and how many pixels away.
  function nearest(chart, plot, left, top, passes) {
    const at = plot.posToIdx(left);
    let found = null;
    for (const s of chart.series) {
      s.values.forEach((v, i) => {
        if (v === null || !passes(i)) return;
        const across = plot.valToPos(chart.x[i], "x") - left;
        const away = s.kind !== "bars" ? Math.hypot(across, plot.valToPos(v, "y") - top) : at === i ? 0 : Math.abs(across);
        if (!found || away < found.away) found = { place: i, away };
      });
    }
    return found;
  }

  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const plots = new Map();
  const redraw = () => figures.forEach((figure) => {
    plots.get(figure)?.destroy();
    const chart = charts[+figure.dataset.chart];
    if (chart) plots.set(figure, draw(chart, figure));
  });
  redraw();
  // A page that follows a run hands over new numbers for the same figures.
  document.addEventListener("new-charts", (event) => {
    charts = event.detail;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => plots.forEach((plot, figure) => {
    const width = figure.querySelector(".plot").clientWidth;
    if (width && width !== plot.width) plot.setSize({ width, height: plot.height });
  })).observe(document.querySelector("main"));
})();
