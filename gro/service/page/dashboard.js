// Shows what the guard says of itself. The key that is shown to it is kept in this module and nowhere else.
// What the guard answers is set as text, never as HTML: callers may have chosen it.

const PERIOD = 2_000;  // milliseconds between two looks
const PATIENCE = 10_000;  // milliseconds after which an answer is no longer waited for
const SPAN = 300;  // seconds that a chart shows
const OWN_LINES = 5;  // codes of refusals with a line of their own
const MOST_EVENTS = 200;
const WIDTH = 300, HEIGHT = 80, SVG = "http://www.w3.org/2000/svg";
const REFUSED = "This key was refused: it is unknown, expired or revoked.";
const SEVERITIES = { 1: "info", 21: "low", 47: "medium", 73: "high", 99: "critical" };
const PANELS = { overview: showOverview, accounts: showAccounts, events: showEvents };

let visit = null;  // what is known with a key; a new one begins empty

const $ = (id) => document.getElementById(id);
const say = (text) => { $("said").textContent = text; };
const clock = (date) => date.toLocaleTimeString([], { hourCycle: "h23" });
const day = (date) => date.toLocaleString([], { hourCycle: "h23", dateStyle: "medium", timeStyle: "short" });
const rounded = (value) => value.toLocaleString([], { maximumSignificantDigits: 3 });

class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Ask the guard; a Failure has the status of HTTP, or 0 where there was no answer. */
async function ask(key, path, order) {
  const request = { headers: { "X-API-Key": key }, cache: "no-store", credentials: "omit" };
  if (order) Object.assign(request, { method: "POST", body: JSON.stringify(order) });
  let answer, content;
  try {
    answer = await fetch(path, { ...request, signal: AbortSignal.timeout(PATIENCE) });
    content = await answer.json();
  } catch {
    throw new Failure(answer?.ok === false ? answer.status : 0, "the service does not answer");
  }
  if (!answer.ok) throw new Failure(answer.status, content.detail);
  return content;
}

// --- A visit: from a key that is entered until it is forgotten or refused

function enter(event) {
  event.preventDefault();
  const key = $("key").value.trim();
  $("key").value = "";
  if (!/^[!-~]+$/.test(key)) return leave("That is no key: there are characters in it that no key has.");
  visit = { key, turn: 0, forbidden: new Set(), samples: [], codes: [], rows: new Map(), alarms: null, silent: null };
  $("refused").textContent = "";
  look();
}

function leave(why = "") {
  clearTimeout(visit?.timer);
  visit = null;
  $("order").close();
  $("order-form").reset();
  for (const id of ["status", "calls", "refusals", "alarms", "accounts", "accounts-note", "events", "events-note",
    "said", "order-title", "order-problem"]) $(id).replaceChildren();
  show(false);
  $("refused").textContent = why;
  $("key").focus();
}

function show(open) {
  $("enter").hidden = open;
  $("board").hidden = $("leave").hidden = !open;
}

/** Fill every panel, now and from then on; an earlier call's answers that are still to come count no more. */
async function look() {
  const mine = visit, turn = ++mine.turn;
  clearTimeout(mine.timer);
  const paths = Object.keys(PANELS).filter((path) => !mine.forbidden.has(path));
  const failures = (await Promise.all(paths.map((path) => fill(mine, turn, path)))).filter(Boolean);
  if (visit !== mine || mine.turn !== turn) return;
  if (failures.some(({ status }) => status === 401)) return leave(REFUSED);
  const [failure] = failures;
  if (failure && !mine.silent) say(`Trouble: ${failure.message}.`);
  mine.silent = failure ? { since: mine.silent?.since ?? new Date(), why: failure.message } : null;
  show(true);
  showStatus();
  mine.timer = setTimeout(look, PERIOD);
}

/** Fill a panel and return why that failed. What the key may not read is not asked for again: each try is logged. */
async function fill(mine, turn, path) {
  try {
    const content = await ask(mine.key, path);
    if (visit === mine && mine.turn === turn) PANELS[path](content);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.status !== 403) return error;
    mine.forbidden.add(path);
    if (visit === mine && path !== "overview") $(`${path}-note`).textContent = `This key may not read ${path}.`;
  }
  return null;
}

// --- Panels

function showOverview(overview) {
  visit.overview = overview;
  const { time, counts } = overview;
  visit.samples = [...visit.samples.filter((old) => old.time < time && old.time >= time - SPAN), { time, counts }];
  const found = Object.keys(counts).map((name) => /^gro_refusals_total\{code="(.*)"\}$/.exec(name)?.[1]);
  visit.codes = [...new Set([...visit.codes, ...found.filter(Boolean)])];
  const refusals = (label, codes) => line(label, codes.map((code) => `gro_refusals_total{code="${code}"}`));
  const own = visit.codes.slice(0, OWN_LINES).map((code) => refusals(code, [code]));
  const others = visit.codes.slice(OWN_LINES);
  draw($("calls"), "Answered calls", [line("calls", ["gro_calls_total"])]);
  draw($("refusals"), "Refusals, by code", others.length ? [...own, refusals("others", others)] : own);
  draw($("alarms"), "Alarms", [line("alarms", ["gro_alarms_total"])]);
}

function showStatus() {
  const { overview, silent, forbidden } = visit;
  const chips = [];
  if (silent) chips.push(["bad", `No news since ${clock(silent.since)}: ${silent.why}`]);
  if (forbidden.has("overview")) chips.push(["warn", "This key may not read the overview"]);
  if (overview) {
    const { trouble, dry_run: dry, accounts_watched: watched, time } = overview;
    chips.push(...(trouble.length ? trouble.map((each) => ["bad", each]) : [["good", "No trouble"]]));
    chips.push(dry ? ["warn", "Dry run: nothing is done to accounts"] : ["plain", "Responses are in force"]);
    chips.push(["plain", `${watched.toLocaleString()} accounts watched`], ["plain", clock(new Date(time * 1000))]);
  }
  $("status").replaceChildren(...chips.map(([kind, text]) => element("span", text, { class: `chip ${kind}` })));
  $("board").classList.toggle("stale", silent !== null);
}

function showAccounts({ accounts, all }) {
  const standing = accounts.filter((about) => about.alarm).map((about) => about.account);
  const begun = visit.alarms ? standing.filter((account) => !visit.alarms.has(account)) : [];
  if (begun.length) say(`Alarm: ${begun.join(", ")}.`);
  visit.alarms = new Set(standing);
  visit.rows = new Map(accounts.map((about) => [about.account, row(visit.rows.get(about.account), about)]));
  arrange($("accounts"), [...visit.rows.values()].map(({ tr }) => tr));
  const shown = all > accounts.length ? `${accounts.length} of ${all}, the harshest first.` : "";
  $("accounts-note").textContent = all ? shown : "No account stands out.";
}

function showEvents({ events }) {
  const latest = JSON.stringify(events.at(-1));
  if (latest === visit.latest) return;
  visit.latest = latest;
  $("events").replaceChildren(...events.slice(-MOST_EVENTS).reverse().map(eventItem));
}

// --- Elements

/** An element with a text or with children. */
function element(name, content = [], attributes = {}, space = "http://www.w3.org/1999/xhtml") {
  const made = document.createElementNS(space, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...(Array.isArray(content) ? content : [content]));
  return made;
}

/** Put rows into this order, without touching them where they are, and leave the focus where it is. */
function arrange(body, rows) {
  if (rows.length === body.children.length && rows.every((tr, at) => tr === body.children[at])) return;
  const focused = document.activeElement;
  body.replaceChildren(...rows);
  focused.focus({ preventScroll: true });
}

/** An account's row, brought up to date; its buttons stay the same. */
function row(known, about) {
  const seen = JSON.stringify(about);
  if (!known) return { seen, tr: element("tr", [...cells(about), actions(about.account)]) };
  if (known.seen !== seen) cells(about).forEach((cell, at) => known.tr.children[at].replaceWith(cell));
  return { seen, tr: known.tr };
}

function cells({ account, state, factor, score, alarm, holds, reasons }) {
  const share = factor < 1 ? ` to ${rounded(100 * factor)} %` : "";
  const list = (items) => (items.length ? [element("ul", items)] : "–");
  return [
    element("th", account, { scope: "row" }),
    element("td", [element("span", state + share, { class: "chip", "data-state": state })], { "data-label": "State" }),
    element("td", score === null ? "–" : bar(score, alarm), { "data-label": "Score" }),
    element("td", list(holds.map(holdItem)), { "data-label": "Held by" }),
    element("td", list(reasons.map((reason) => element("li", reason.text))), { "data-label": "Reasons" }),
  ];
}

/** A score as a share of the threshold, which is in the middle of the bar. */
function bar(score, alarm) {
  const part = (name, attributes) => element(name, [], attributes, SVG);
  const drawn = element("svg", [
    part("rect", { class: "rail", width: 100, height: 8, rx: 2 }),
    part("rect", { class: alarm ? "fill over" : "fill", width: Math.min(100, 50 * score), height: 8, rx: 2 }),
    part("path", { class: "tick", d: "M50 0V8" }),
  ], { class: "bar", viewBox: "0 0 100 8", "aria-hidden": "true" }, SVG);
  return [element("span", `${Math.round(100 * score)} %`), drawn];
}

function holdItem({ state, by, why, until, manual, dry_run: dry }) {
  const end = until === null ? "until it is released" : `until ${day(new Date(until * 1000))}`;
  const text = `${dry ? "would be " : ""}${state} by ${manual ? "operator" : "rule"} ${by}, ${end}`;
  return element("li", [text, element("small", why)]);
}

function actions(account) {
  const buttons = ["Release", "Hold"].map((name) => {
    const button = element("button", name, { type: "button", class: "quiet", "aria-label": `${name} ${account}` });
    button.addEventListener("click", () => openOrder(name, account));
    return button;
  });
  return element("td", buttons, { class: "actions" });
}

function eventItem({ "@timestamp": time, message, event, user = {} }) {
  const by = user.id ?? user.hash, target = user.target?.id ?? user.target?.hash;
  const severity = SEVERITIES[event.severity] ?? String(event.severity), why = event.reason ?? event.code;
  return element("li", [
    element("time", clock(new Date(time)), { datetime: time }),
    element("span", severity, { class: "chip", "data-severity": severity }),
    element("b", event.action),
    element("span", target ? `${target}, by ${by}` : by ?? "", { class: "who" }),
    element("p", [message, ...(why ? [element("small", why)] : [])]),
  ]);
}

// --- Charts

/** Sum the growth of counters between samples, per second; a counter that fell began anew. */
function line(label, names) {
  const points = visit.samples.slice(1).map(({ time, counts }, at) => {
    const before = visit.samples[at];
    const grown = names.map((name) => {
      const now = counts[name] ?? 0, old = before.counts[name] ?? 0;
      return now < old ? now : now - old;
    });
    return { time, rate: grown.reduce((sum, each) => sum + each, 0) / (time - before.time) };
  });
  return { label, points };
}

function draw(figure, title, lines) {
  const now = visit.samples.at(-1).time, minutes = SPAN / 60;
  const top = Math.max(0, ...lines.flatMap(({ points }) => points.map(({ rate }) => rate)));
  const place = ({ time, rate }) => `${WIDTH * (1 - (now - time) / SPAN)} ${HEIGHT * (1 - 0.95 * (top && rate / top))}`;
  const rates = lines.map(({ label, points }) => `${label} ${rounded(points.at(-1)?.rate ?? 0)}/s`);
  const told = `${title}: ${rates.join(", ") || "none"}; at most ${rounded(top)} a second in the last ${minutes} minutes`;
  const paths = lines.map(({ points }, at) =>
    element("path", [], { class: `line-${at}`, d: points.length ? `M${points.map(place).join("L")}` : "" }, SVG));
  const view = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": told };
  const axis = [`${minutes} min ago`, `peak ${rounded(top)}/s`, "now"].map((text) => element("span", text));
  figure.replaceChildren(
    element("figcaption", title),
    element("ul", (rates.length ? rates : ["none"]).map((text, at) => element("li", text, { class: `line-${at}` }))),
    element("svg", paths, view, SVG),
    element("p", axis, { class: "note axis" }),
  );
}

// --- Orders

function openOrder(name, account) {
  const hold = name === "Hold";
  $("order-form").reset();
  $("order-title").textContent = `${name} ${account}`;
  $("hold-only").hidden = !hold;
  $("confirm").textContent = name;
  $("order-problem").textContent = "";
  $("order-form").onsubmit = (event) => {
    event.preventDefault();
    const { value: state } = $("state"), { value: seconds } = $("seconds"), why = $("why").value.trim();
    sendOrder(name, hold ? { account, state, why, seconds: seconds ? Number(seconds) : null } : { account, why });
  };
  $("order").showModal();
  $("why").focus();
}

async function sendOrder(name, order) {
  const mine = visit;
  $("confirm").disabled = true;
  const failure = await ask(mine.key, name.toLowerCase(), order).then(() => null, (error) => error);
  $("confirm").disabled = false;
  if (visit !== mine) return;
  if (failure?.status === 401) leave(REFUSED);
  else if (failure) $("order-problem").textContent = `Not done: ${failure.message}.`;
  else {
    $("order").close();
    say(`${name} ${order.account}: done.`);
    look();
  }
}

$("enter").addEventListener("submit", enter);
$("leave").addEventListener("click", () => leave());
$("cancel").addEventListener("click", () => $("order").close());
$("key").focus();
