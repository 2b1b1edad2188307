"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = [...document.querySelectorAll(".row:not(.head)")];
  const chips = [...document.querySelectorAll(".chip")];
  const only = document.getElementById("only");
  const search = document.getElementById("search");
  const nothing = document.getElementById("nothing");
  const dialog = document.getElementById("details");
  let topic = null;

  // ---- filters

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const changedOnly = only !== null && only.checked;
    let shown = 0;
    for (const row of rows) {
      const fits =
        (!changedOnly || row.classList.contains("changed")) &&
        (topic === null || row.dataset.topic === topic) &&
        words.every((word) => row.dataset.words.includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    nothing.hidden = shown > 0;
    for (const chip of chips) {
      const count = changedOnly ? chip.dataset.changed : chip.dataset.all;
      chip.querySelector("span").textContent = count;
      chip.classList.toggle("empty", count === "0");
      chip.setAttribute("aria-pressed", chip.dataset.topic === topic);
    }
  }

  for (const chip of chips) {
    chip.addEventListener("click", () => {
      topic = topic === chip.dataset.topic ? null : chip.dataset.topic;
      filter();
    });
  }
  search.addEventListener("input", filter);
  if (only) only.addEventListener("change", filter);

  // ---- details

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function block(body, title, lines) {
    body.append(element("h3", title), element("pre", lines.join("\n")));
  }

  function steps(body, list) {
    body.append(element("h3", "Steps"));
    const ol = element("ol");
    for (const step of list) {
      const li = element("li", step.label + ": ");
      li.append(element("b", step.words));
      for (const line of step.more) li.append(element("small", line));
      ol.append(li);
    }
    body.append(ol);
  }

  function digest(body, cell) {
    body.append(element("h3", "Launch digest"));
    body.append(element("p", cell.digest, "digest"));
    if (cell.predicted) {
      const same = cell.digest === cell.predicted;
      const words = same ? "as predicted from the pages populated" : "predicted: " + cell.predicted;
      body.append(element("p", words, same ? "words" : "digest"));
    }
  }

  function show(id, kernel) {
    const scenario = data.scenarios[id];
    const index = Math.max(0, data.kernels.findIndex((k) => k.name === kernel));
    const cell = scenario.cells[index];
    document.getElementById("details-title").textContent = id;
    document.getElementById("details-summary").textContent = scenario.summary;
    const tabs = dialog.querySelector(".tabs");
    tabs.replaceChildren(
      ...data.kernels.map((k, number) => {
        const kind = scenario.cells[number].kind;
        const tab = element("button", data.glyphs[kind] + " " + k.short, kind);
        tab.type = "button";
        tab.setAttribute("aria-pressed", number === index);
        tab.addEventListener("click", () => {
          show(id, k.name);
          dialog.querySelector(".tabs [aria-pressed=true]").focus();
        });
        return tab;
      })
    );
    const body = dialog.querySelector(".body");
    body.replaceChildren();
    body.append(element("span", data.glyphs[cell.kind] + " " + cell.words, "verdict " + cell.kind));
    body.append(element("p", data.kernels[index].words, "words"));
    if (cell.contract === "broken") {
      body.append(element("p", "Not what the contract promises of this kernel.", "contract broken"));
    } else if (cell.contract === "kept") {
      body.append(element("p", "As the contract promises of this kernel.", "contract"));
    }
    if (cell.reason) body.append(element("p", cell.reason));
    if (scenario.why.length) {
      body.append(element("h3", "What changed it"));
      for (const why of scenario.why) body.append(element("p", why, "contract"));
    }
    if (cell.steps) steps(body, cell.steps);
    if (cell.log) block(body, "Kernel log", cell.log);
    else if (!cell.reason) body.append(element("h3", "Kernel log"), element("p", "silent", "words"));
    if (cell.trace) block(body, "Ioctls", cell.trace);
    if (cell.digest) digest(body, cell);
    if (cell.rmp) {
      block(body, "Pages by state", Object.entries(cell.rmp).map(([k, v]) => k + " " + v));
    }
    body.scrollTop = 0;
    if (!dialog.open) dialog.showModal();
    history.replaceState(null, "", "#" + encodeURIComponent(id) + "@" + encodeURIComponent(kernel));
  }

  document.querySelector("main").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-row]");
    if (button) show(button.dataset.row, button.dataset.kernel);
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    history.replaceState(null, "", location.pathname + location.search);
  });

  // ---- a picture of what changed: rows that changed alike, once

  function picture() {
    document.documentElement.classList.add("picture");
    const first = new Map();
    for (const row of rows.filter((row) => !row.hidden)) {
      const cells = [...row.querySelectorAll(".cell")].map((cell) => cell.className);
      const why = row.querySelector(".why");
      const like = cells.join() + (why ? why.textContent : "");
      row.hidden = first.has(like);
      first.set(like, [...(first.get(like) || []), row]);
    }
    for (const [row, ...others] of first.values()) {
      if (!others.length) continue;
      row.querySelector(".id").append(element("small", `and ${others.length} more, changed alike`, "more"));
    }
  }

  filter();
  const [id, kernel] = location.hash.slice(1).split("@").map(decodeURIComponent);
  if (id === "picture") picture();
  else if (id in data.scenarios) show(id, kernel || data.kernels[0].name);
})();
