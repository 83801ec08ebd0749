"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const picture = byId("picture");
  const svg = picture.querySelector("svg");
  const details = byId("details");
  // One stop for the Tab key; the arrow keys go on from there.
  const marks = [...svg.querySelectorAll(".record")].sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x);
  const rows = new Map([...document.querySelectorAll("tr[data-record]")].map((row) => [row.dataset.record, row]));
  let at = 0;
  let before = null;
  for (const mark of marks) {
    mark.setAttribute("role", "button");
    mark.setAttribute("tabindex", "-1");
    mark.setAttribute("aria-label", mark.querySelector("title").textContent);
  }
  if (marks.length > 0) marks[0].setAttribute("tabindex", "0");

  const element = (name, text) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const show = (record, from) => {
    const known = data[record];
    if (!known) return;
    before = from;
    const close = element("button", "Close");
    close.type = "button";
    close.className = "close";
    close.addEventListener("click", hide);
    const list = element("dl");
    for (const [name, value] of known.fields) list.append(element("dt", name), element("dd", value));
    details.replaceChildren(close, list);
    if (known.body) details.append(element("pre", known.body));
    details.hidden = false;
    details.dataset.record = record;
    for (const old of document.querySelectorAll(".chosen")) old.classList.remove("chosen");
    for (const one of document.querySelectorAll(`[data-record="${CSS.escape(record)}"]`)) {
      if (one !== details) one.classList.add("chosen");
    }
  };

  const hide = () => {
    details.hidden = true;
    for (const old of document.querySelectorAll(".chosen")) old.classList.remove("chosen");
    if (before) before.focus();
  };

  const go = (to) => {
    if (marks.length === 0) return;
    marks[at].setAttribute("tabindex", "-1");
    at = Math.min(Math.max(to, 0), marks.length - 1);
    marks[at].setAttribute("tabindex", "0");
    marks[at].focus();
    marks[at].scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  svg.addEventListener("click", (event) => {
    const mark = event.target.closest(".record");
    if (!mark) return;
    go(marks.indexOf(mark));
    show(mark.dataset.record, mark);
  });
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") show(marks[at].dataset.record, marks[at]);
    else if (event.key === "ArrowRight" || event.key === "ArrowDown") go(at + 1);
    else if (event.key === "ArrowLeft" || event.key === "ArrowUp") go(at - 1);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(marks.length - 1);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !details.hidden) hide();
  });
  byId("records").addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-record]");
    if (row) show(row.dataset.record, row.querySelector("button"));
  });

  const whole = svg.viewBox.baseVal;
  let scale = 1;
  const resize = (to) => {
    scale = Math.min(Math.max(to, 0.1), 8);
    svg.setAttribute("width", whole.width * scale);
    svg.setAttribute("height", whole.height * scale);
  };
  byId("larger").addEventListener("click", () => resize(scale * 1.25));
  byId("smaller").addEventListener("click", () => resize(scale / 1.25));
  const fitting = () => picture.clientWidth / whole.width;
  byId("fit").addEventListener("click", () => resize(fitting()));
  // Where little is missing to see all of it, nobody should have to look for how it ended; smaller it could not be read.
  const readable = 0.8;
  if (fitting() < 1 && fitting() >= readable) resize(fitting());

  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  });

  byId("find").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let found = 0;
    for (const row of rows.values()) {
      const group = row.closest("details").querySelector("summary").textContent;
      const is = wanted === "" || (row.textContent + group).toLowerCase().includes(wanted);
      row.hidden = !is;
      if (is && wanted !== "") {
        found += 1;
        row.closest("details").open = true;
      }
    }
    for (const mark of marks) {
      const row = rows.get(mark.dataset.record);
      mark.classList.toggle("dim", row !== undefined && row.hidden);
    }
    byId("found").textContent = wanted === "" ? "" : `${found} record${found === 1 ? "" : "s"}`;
  });

  // On paper everything is there.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
