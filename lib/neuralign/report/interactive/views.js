// Draws the views of a page: each is a <figure class="view"> with its data as JSON (view.py says what they mean).
// plotly.js lies compressed in the page; without DecompressionStream the page keeps its printed figures.
"use strict";
(() => {
  const WIDTH = 330, HEIGHT = 370; // of a panel, in pixels: the least width, and the height
  // nothing leaves the page: without the button that sends the figure to a server
  const UNUSED = ["sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d", "tableRotation"];
  // Plotly's own `responsive` forgets the height of a figure at the first change of the window
  const CONFIG = { responsive: false, displaylogo: false, plotlyServerURL: "", modeBarButtonsToRemove: UNUSED };
  const FLATTEST = 0.6, STEEPEST = 1.6; // height over width of planes whose axes have one scale

  async function loadPlotly() {
    const text = document.getElementById("plotly-bundle").textContent;
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  // data

  const set = (object, path, value) => {
    const keys = path.split("."), last = keys.pop();
    keys.reduce((inner, key) => (inner[key] ??= {}), object)[last] = value;
  };
  const asArray = (value) => (Array.isArray(value) ? value : [value]);
  const agrees = (trace, key, chosen) =>
    !(key in trace.meta) || asArray(trace.meta[key]).some((value) => chosen.has(value));

  function resolve(view, value) {
    const [, kind, name] = (typeof value === "string" && value.match(/^(#|log:|hover:)(.*)$/)) || [];
    if (!kind) return value;
    const rows = view.arrays[name], spread = view.arrays[`${name} sd`];
    if (kind === "#") return rows;
    if (kind === "log:") return rows.map((row) => row.map((number) => (number > 0 ? Math.log10(number) : null)));
    return rows.map((row, i) => row.map((number, j) => [number, spread ? spread[i][j] : null]));
  }

  // what is shown for the reader's choices

  function figure(view, chosen, width) {
    const layout = structuredClone(view.layout);
    const axis = { zeroline: false, gridcolor: "#e4e4e4", linecolor: "#1d2329", showline: true, ticks: "outside" };
    Object.assign(layout, { width, paper_bgcolor: "#fff", plot_bgcolor: "#fff", uirevision: view.name });
    layout.font = { family: "DejaVu Sans, system-ui, sans-serif", size: 12, color: "#1d2329" };
    for (const { key, options } of view.choices)
      for (const option of options)
        if (chosen[key].has(option.value))
          for (const [path, value] of Object.entries(option.layout)) set(layout, path, value);
    const traces = view.traces
      .filter((trace) => view.choices.every(({ key }) => agrees(trace, key, chosen[key])))
      .map((trace) => ({
        ...structuredClone(trace),
        ...Object.fromEntries(["z", "customdata"].filter((k) => k in trace).map((k) => [k, resolve(view, trace[k])])),
      }));
    if (traces.some((trace) => "panel" in trace.meta)) arrange(traces, layout, width);
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name)))
      layout[key] = { ...axis, ...layout[key] };
    return { traces, layout };
  }

  function arrange(traces, layout, width) {
    const panels = [...new Set(traces.map((trace) => trace.meta.panel))];
    const columns = Math.max(1, Math.min(panels.length, Math.floor(width / WIDTH)));
    const rows = Math.ceil(panels.length / columns), ratio = layout.meta.ratio ?? 1;
    layout.height = rows * HEIGHT + 60;
    layout.annotations = [];
    panels.forEach((name, i) => {
      const suffix = i ? String(i + 1) : "", column = i % columns, row = Math.floor(i / columns);
      const gap = [0.09 * (columns > 1), 0.2 * (rows > 1)];
      const x = [column / columns + gap[0] / 2, (column + 1) / columns - gap[0] / 2];
      const y = [1 - (row + 1) / rows + gap[1] / 2, 1 - row / rows - gap[1] / 2];
      const title = { text: layout.meta.axis };
      layout.annotations.push({ text: `<b>${name}</b>`, x: (x[0] + x[1]) / 2, y: y[1], xref: "paper", yref: "paper",
        yanchor: "bottom", showarrow: false });
      const inPanel = traces.filter((trace) => trace.meta.panel === name);
      if (inPanel.some((trace) => trace.type === "surface")) {
        const height = Math.min(STEEPEST, Math.max(FLATTEST, ratio));
        layout[`scene${suffix}`] = { domain: { x, y }, aspectmode: "manual", aspectratio: { x: 1, y: height, z: 0.7 },
          camera: { eye: { x: -1.2, y: -1.5, z: 1.1 } },
          xaxis: { title: { text: "x" } }, yaxis: { title: { text: "y" } }, zaxis: { title: { text: "" } } };
        inPanel.forEach((trace) => { trace.scene = `scene${suffix}`; });
      } else {
        const linked = { scaleanchor: `x${suffix}`, constrain: "domain", constraintoward: "top" };
        const sameScale = FLATTEST < ratio && ratio < STEEPEST ? linked : {};
        layout[`xaxis${suffix}`] = { domain: x, anchor: `y${suffix}`, title, constrain: "domain" };
        layout[`yaxis${suffix}`] = { domain: y, anchor: `x${suffix}`, title: column ? {} : title, ...sameScale };
        inPanel.forEach((trace) => Object.assign(trace, { xaxis: `x${suffix}`, yaxis: `y${suffix}` }));
      }
    });
    const coloured = traces.filter((trace) => "colorbar" in trace);
    coloured.forEach((trace, i) => { trace.showscale = i === coloured.length - 1; });
  }

  // the page

  function controls(view, chosen, redraw) {
    const form = document.createElement("form");
    form.className = "choices";
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const { key, label, options, several } of view.choices) {
      if (options.length < 2) continue;
      const group = form.appendChild(document.createElement("fieldset"));
      group.name = key;
      group.appendChild(document.createElement("legend")).textContent = label;
      if (!several && options.length > 3) {
        const list = group.appendChild(document.createElement("select"));
        list.setAttribute("aria-label", label);
        options.forEach((option) => list.add(new Option(option.label, option.value)));
        list.addEventListener("change", () => { chosen[key] = new Set([list.value]); redraw(); });
        continue;
      }
      options.forEach((option) => {
        const item = group.appendChild(document.createElement("label")), box = document.createElement("input");
        Object.assign(box, { type: several ? "checkbox" : "radio", name: `${view.name}-${key}` });
        box.value = option.value;
        box.addEventListener("change", () => {
          if (!several) chosen[key] = new Set([option.value]);
          else if (box.checked) chosen[key].add(option.value);
          else chosen[key].delete(option.value);
          redraw();
        });
        item.append(box, option.label);
      });
    }
    return form;
  }

  // An option is disabled if no trace has it that agrees with the choices before it, and it changes no layout. If that
  // was chosen, as an attack that another setting lacks, the first other one is.
  function settle(view, chosen, form) {
    let within = view.traces;
    for (const { key, options, several } of view.choices) {
      const present = new Set(within.flatMap((trace) => asArray(trace.meta[key] ?? [])));
      const usable = options.filter(({ value, layout }) => present.has(value) || Object.keys(layout).length);
      if (!several && usable.length && !usable.some(({ value }) => chosen[key].has(value)))
        chosen[key] = new Set([usable[0].value]);
      for (const item of form.querySelectorAll(`[name="${key}"] :is(input, option)`)) {
        item.disabled = !usable.some(({ value }) => value === item.value);
        item[item.matches("option") ? "selected" : "checked"] = chosen[key].has(item.value);
      }
      within = within.filter((trace) => agrees(trace, key, chosen[key]));
    }
  }

  function start(element) {
    const view = JSON.parse(element.querySelector("script").textContent);
    const chosen = Object.fromEntries(view.choices.map(({ key, options, several }) =>
      [key, new Set((several ? options : options.slice(0, 1)).map((option) => option.value))]));
    const canvas = element.querySelector(".canvas");
    let width = 0; // of the figure
    const redraw = () => {
      settle(view, chosen, form);
      width = canvas.clientWidth; // changes with the window, and when a scroll bar appears; 0 while it is hidden
      const { traces, layout } = figure(view, chosen, width);
      Plotly.react(canvas, traces, layout, CONFIG);
    };
    const form = controls(view, chosen, redraw);
    canvas.before(form);
    redraw();
    new ResizeObserver(() => requestAnimationFrame(() => {
      if (canvas.clientWidth && canvas.clientWidth !== width) redraw();
    })).observe(canvas);
  }

  async function main() {
    if (!("DecompressionStream" in window)) return;
    const elements = [...document.querySelectorAll("figure.view")];
    await loadPlotly();
    document.documentElement.classList.add("interactive"); // shows the views instead of the printed figures
    elements.forEach(start);
    const both = document.getElementById("printed-figures");
    both?.addEventListener("change", () => document.documentElement.classList.toggle("printed", both.checked));
  }

  main();
})();
