"use strict";
// The map: colours and legend, search, selection, what the pointer shows, names that do not overlap.
embedOps.whenDrawn("map", (plot) => {
  const given = JSON.parse(document.getElementById("points").textContent);
  const {columns, palette, ramp, titles, thumbnails} = given;
  const rows = given.ids.length;
  const element = (id) => document.getElementById(id);
  const marks = plot.renderers.find((item) => item.name === "marks");
  const shade = plot.renderers.find((item) => item.name === "shade");
  const names = plot.renderers.find((item) => item.name === "names");
  const points = marks.data_source;
  const {x, y} = points.data;
  const whole = {x: [plot.x_range.start, plot.x_range.end], y: [plot.y_range.start, plot.y_range.end]};
  const GRAY = "#9aa1ad", MOST_LISTED = 100, BINS = ramp.length, MOST_NAMED = 60;
  let groups = [], member = new Int32Array(rows), hidden = new Set();

  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const number = (value) => value.toLocaleString("en-US");
  const figure = (value) => Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
  const valueOf = (column, row) => column.codes ? column.values[column.codes[row]] : column.numbers[row];
  const shown = (column, row) => {
    const value = valueOf(column, row);
    return value === null ? "" : column.codes ? value : figure(value);
  };

  // Groups of a column: its most frequent values, or stretches of its numbers.
  function grouped(column) {
    if (column === undefined) return {made: [{name: "all rows", color: palette[0], rows}], of: new Int32Array(rows)};
    return column.codes ? byValue(column) : byNumber(column);
  }

  function byValue({name, values, codes}) {
    const counts = new Int32Array(values.length);
    codes.forEach((code) => { counts[code] += 1; });
    const order = [...values.keys()].sort((a, b) => counts[b] - counts[a] || a - b);
    const own = order.length <= palette.length ? order : order.slice(0, palette.length - 1);
    const made = own.map((code, place) => ({
      name: (name === "cluster" && titles[values[code]]) || values[code] || "none",
      value: values[code], color: palette[place], rows: counts[code],
    }));
    const place = new Int32Array(values.length).fill(made.length);
    own.forEach((code, at) => { place[code] = at; });
    if (own.length < order.length) {
      const rest = order.slice(own.length).reduce((sum, code) => sum + counts[code], 0);
      made.push({name: `${number(order.length - own.length)} others`, color: GRAY, rows: rest, rest: true});
    }
    return {made, of: Int32Array.from(codes, (code) => place[code])};
  }

  function byNumber({numbers}) {
    const sorted = numbers.filter((value) => value !== null).sort((a, b) => a - b);
    const distinct = [...new Set(sorted)];
    const bounds = distinct.length <= BINS ? distinct : [...new Set(
      Array.from({length: BINS}, (_, bin) => sorted[Math.floor(bin * sorted.length / BINS)]))];
    const exact = distinct.length <= BINS;
    const made = bounds.map((low, bin) => ({
      name: exact ? figure(low) : `${figure(low)} to ${figure(bounds[bin + 1] ?? sorted.at(-1))}`, rest: !exact,
      color: ramp[bounds.length === 1 ? 0 : Math.round(bin * (BINS - 1) / (bounds.length - 1))], rows: 0,
    }));
    const of = Int32Array.from(numbers, (value) => {
      if (value === null) return made.length;
      let bin = bounds.length - 1;
      while (bin > 0 && value < bounds[bin]) bin -= 1;
      made[bin].rows += 1;
      return bin;
    });
    if (sorted.length < rows) made.push({name: "none", color: GRAY, rows: rows - sorted.length, rest: true});
    return {made, of};
  }

  function recolor() {
    const column = columns.find((item) => item.name === element("color").value);
    ({made: groups, of: member} = grouped(column));
    hidden = new Set();
    element("legend-title").textContent = column?.name ?? "";
    element("legend").replaceChildren(...groups.map((group, at) => {
      const key = make("button", {type: "button", className: "key", title: `${group.name}: click hides or shows, double click shows it alone`},
        make("span", {className: "swatch"}), make("span", {textContent: group.name}),
        make("span", {className: "n", textContent: number(group.rows)}));
      key.style.setProperty("--swatch", group.color);
      key.setAttribute("aria-pressed", "true");
      key.onclick = () => { hidden.has(at) ? hidden.delete(at) : hidden.add(at); refilter(); };
      key.ondblclick = () => { hidden = new Set(groups.keys()); hidden.delete(at); refilter(); };
      return make("li", {}, key);
    }));
    points.data = {...points.data, color: Array.from(member, (at) => groups[at].color)};
    refilter();
  }

  function refilter() {
    element("legend").querySelectorAll(".key").forEach((key, at) => key.setAttribute("aria-pressed", String(!hidden.has(at))));
    const left = [];
    for (let row = 0; row < rows; row += 1) if (!hidden.has(member[row])) left.push(row);
    marks.view.filter.indices = left;
    place();
  }

  // Names stand in the middle of their groups; where two would overlap, that of the larger stays.
  const measure = document.createElement("canvas").getContext("2d");
  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  function place() {
    const wide = plot.x_range.end - plot.x_range.start, high = plot.y_range.end - plot.y_range.start;
    const written = {x: [], y: [], text: []}, taken = [];
    const named = element("names").checked && groups.length > 1 ? groups.slice(0, MOST_NAMED) : [];
    measure.font = "bold 12px system-ui, sans-serif";
    const inside = groups.map(() => [[], []]);
    for (let row = 0; row < rows; row += 1) {
      const [ax, ay] = [(x[row] - plot.x_range.start) / wide, (y[row] - plot.y_range.start) / high];
      if (ax > 0 && ax < 1 && ay > 0 && ay < 1) { inside[member[row]][0].push(x[row]); inside[member[row]][1].push(y[row]); }
    }
    named.forEach((group, at) => {
      if (group.rest || hidden.has(at) || inside[at][0].length < 3) return;
      const text = group.name.length > 28 ? `${group.name.slice(0, 26)}…` : group.name;
      const [mx, my] = inside[at].map(median);
      const half = measure.measureText(text).width / 2 + 6;
      const cx = (mx - plot.x_range.start) / wide * plot.inner_width, cy = (my - plot.y_range.start) / high * plot.inner_height;
      const box = [cx - half, cx + half, cy - 10, cy + 10];
      const covered = taken.some((other) => box[0] < other[1] && other[0] < box[1] && box[2] < other[3] && other[2] < box[3]);
      if (covered || box[0] < 0 || box[1] > plot.inner_width || box[2] < 0 || box[3] > plot.inner_height) return;
      taken.push(box);
      written.x.push(mx); written.y.push(my); written.text.push(text);
    });
    names.data_source.data = written;
  }
  let placing = 0;
  const placeSoon = () => { clearTimeout(placing); placing = setTimeout(place, 60); };

  // What is selected: by lasso, by search, or from a table.
  const picked = element("picked"), linked = columns.some((column) => column.name === "cluster");
  function cell(column, row) {
    const text = shown(column, row);
    const made = make("td", {className: column.numbers ? "n" : ""});
    made.setAttribute("role", "cell");
    made.dataset.name = column.name;
    if (column.name === "cluster" && linked && element(`cluster-${text}`)) {
      made.append(make("a", {href: `#cluster-${text}`, textContent: titles[text] ?? text}));
    } else {
      made.append(make("div", {className: column.prose ? "clip" : "", textContent: text}));
    }
    return made;
  }

  function list() {
    const chosen = points.selected.indices;
    picked.hidden = chosen.length === 0;
    const first = chosen.length > MOST_LISTED ? `; the first ${MOST_LISTED} are listed, all are in the files` : "";
    element("picked-told").textContent = `${number(chosen.length)} ${chosen.length === 1 ? "row" : "rows"} selected${first}`;
    const head = make("tr", {}, ...["row", ...(thumbnails ? ["image"] : []), ...columns.map((column) => column.name)]
      .map((name) => { const th = make("th", {textContent: name, scope: "col"}); th.setAttribute("role", "columnheader"); return th; }));
    head.setAttribute("role", "row");
    element("picked-head").replaceChildren(head);
    element("picked-rows").replaceChildren(...chosen.slice(0, MOST_LISTED).map((row) => {
      const id = make("td", {textContent: number(given.ids[row])});
      id.setAttribute("role", "cell");
      id.dataset.name = "row";
      const image = make("td");
      image.setAttribute("role", "cell");
      if (thumbnails?.[row]) image.append(make("img", {src: thumbnails[row], alt: ""}));
      const line = make("tr", {}, id, ...(thumbnails ? [image] : []), ...columns.map((column) => cell(column, row)));
      line.setAttribute("role", "row");
      return line;
    }));
  }

  function select(chosen) { points.selected.indices = chosen; }

  function search(text) {
    const wanted = text.trim().toLowerCase();
    if (wanted === "") { select([]); return; }
    const hit = new Uint8Array(rows);
    for (const column of columns) {
      if (column.codes) {
        const has = column.values.map((value) => value.toLowerCase().includes(wanted));
        column.codes.forEach((code, row) => { if (has[code]) hit[row] = 1; });
      } else {
        column.numbers.forEach((value, row) => { if (value !== null && String(value) === wanted) hit[row] = 1; });
      }
    }
    const found = [];
    hit.forEach((is, row) => { if (is) found.push(row); });
    select(found);
    if (found.length === 0) { picked.hidden = false; element("picked-told").textContent = `no sampled row has “${text.trim()}”`; element("picked-rows").replaceChildren(); element("picked-head").replaceChildren(); }
  }

  function download(name, kind, text) {
    const address = URL.createObjectURL(new Blob([text], {type: kind}));
    make("a", {href: address, download: name}).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }
  const records = () => points.selected.indices.map((row) => ({
    row: given.ids[row], _source: given.sources.values[given.sources.codes[row]], _row: given.positions[row],
    ...Object.fromEntries(columns.map((column) => [column.name, valueOf(column, row)])),
  }));
  element("json").onclick = () => download("rows.json", "application/json", JSON.stringify(records(), null, 1));
  element("csv").onclick = () => {
    const quoted = (value) => value === null ? "" : typeof value === "number" ? String(value) : `"${value.replaceAll('"', '""')}"`;
    const lines = records().map((record) => Object.values(record).map(quoted).join(","));
    const head = ["row", "_source", "_row", ...columns.map((column) => column.name)].map(quoted).join(",");
    download("rows.csv", "text/csv", `${[head, ...lines].join("\r\n")}\r\n`);
  };
  element("clear").onclick = () => { element("search").value = ""; select([]); };

  // What the pointer shows. Values are set as text, so what stands in a row is never run.
  const tip = element("tip"), canvas = element("canvas");
  let pointer = [0, 0];
  canvas.addEventListener("mousemove", (event) => { pointer = [event.clientX, event.clientY]; });
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  points.inspect.connect(() => {
    const [row] = points.inspected.indices;
    tip.hidden = row === undefined;
    if (tip.hidden) return;
    const parts = thumbnails?.[row] ? [make("img", {src: thumbnails[row], alt: ""})] : [];
    parts.push(make("span", {textContent: "row"}), make("b", {textContent: number(given.ids[row])}));
    for (const column of columns) {
      const text = shown(column, row);
      if (text === "") continue;
      if (column.prose) parts.push(make("b", {className: "prose", textContent: text}));
      else parts.push(make("span", {textContent: column.name}), make("b", {textContent: column.name === "cluster" ? titles[text] ?? text : text}));
    }
    tip.replaceChildren(...parts);
    const {width, height} = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(pointer[0] + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${pointer[1] + 18 + height > innerHeight ? Math.max(8, pointer[1] - height - 12) : pointer[1] + 18}px`;
  });

  // Moving: buttons, keys, the wheel once the map was clicked.
  function move(range, shift, scale) {
    const half = (range.end - range.start) / 2, middle = range.start + half + shift * 2 * half;
    range.setv({start: middle - half * scale, end: middle + half * scale});
  }
  const zoom = (scale) => { move(plot.x_range, 0, scale); move(plot.y_range, 0, scale); };
  const reset = () => { plot.x_range.setv({start: whole.x[0], end: whole.x[1]}); plot.y_range.setv({start: whole.y[0], end: whole.y[1]}); };
  element("nearer").onclick = () => zoom(0.7);
  element("farther").onclick = () => zoom(1 / 0.7);
  element("reset").onclick = reset;
  const keys = {
    "+": () => zoom(0.8), "=": () => zoom(0.8), "-": () => zoom(1.25), 0: reset,
    ArrowLeft: () => move(plot.x_range, -0.1, 1), ArrowRight: () => move(plot.x_range, 0.1, 1),
    ArrowUp: () => move(plot.y_range, 0.1, 1), ArrowDown: () => move(plot.y_range, -0.1, 1),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.key in keys && !event.ctrlKey && !event.metaKey) { keys[event.key](); event.preventDefault(); }
  });
  const tools = Object.fromEntries(plot.toolbar.tools.map((tool) => [tool.name, tool]));
  const wheel = (on) => { tools.wheel.active = on; };
  canvas.addEventListener("pointerdown", () => wheel(true));
  canvas.addEventListener("pointerleave", () => wheel(false));
  const buttons = document.querySelectorAll("[data-tool]");
  buttons.forEach((button) => {
    button.onclick = () => buttons.forEach((other) => {
      tools[other.dataset.tool].active = other === button;
      other.setAttribute("aria-pressed", String(other === button));
    });
  });

  const choice = element("color");
  choice.append(...columns.filter((column) => !column.prose).map((column) => make("option", {textContent: column.name})));
  if (given.color === null) choice.prepend(make("option", {textContent: "nothing"}));
  choice.value = given.color ?? "nothing";
  choice.onchange = recolor;
  element("all").onclick = () => { hidden.clear(); refilter(); };
  element("none").onclick = () => { hidden = new Set(groups.keys()); refilter(); };
  element("shade").onchange = (event) => { shade.visible = event.target.checked; };
  element("names").onchange = place;
  let typing = 0;
  element("search").oninput = (event) => { clearTimeout(typing); typing = setTimeout(() => search(event.target.value), 150); };
  points.selected.properties.indices.change.connect(list);
  for (const range of [plot.x_range, plot.y_range]) { range.properties.start.change.connect(placeSoon); range.properties.end.change.connect(placeSoon); }

  // From tables to the map.
  const toMap = (chosen) => { select(chosen); element("map").scrollIntoView(); element("canvas").focus({preventScroll: true}); };
  const clusters = columns.find((column) => column.name === "cluster" && column.codes);
  document.querySelectorAll("[data-cluster]").forEach((button) => {
    button.onclick = () => {
      if (choice.value !== "cluster") { choice.value = "cluster"; recolor(); }
      toMap([...Array(rows).keys()].filter((row) => valueOf(clusters, row) === button.dataset.cluster));
    };
  });
  document.querySelectorAll("[data-row]").forEach((button) => { button.onclick = () => toMap([Number(button.dataset.row)]); });

  recolor();
  if (clusters) {
    const {made} = byValue(clusters);
    document.querySelectorAll("[data-cluster]").forEach((button) => {
      button.querySelector(".swatch").style.setProperty("--swatch", made.find((group) => group.value === button.dataset.cluster)?.color ?? GRAY);
    });
  }
  embedOps.follow(({ink, ground}) => names.glyph.setv({text_color: ink, background_fill_color: ground}));
  element("canvas").dataset.ready = "true";
});
