// Fetches /api/status each second and draws it. Texts of strangers enter the
// page through textContent only.
"use strict";

const REFRESH_MS = 1000;
const byId = (id) => document.getElementById(id);
const short = (id) => id.slice(0, 8);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return `${unit === 0 ? count : count.toFixed(1)} ${units[unit]}`;
}

function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const parts = [[Math.floor(seconds / 3600), "h"], [Math.floor(seconds / 60) % 60, "min"], [seconds % 60, "s"]];
  const first = parts.findIndex(([count]) => count > 0);
  return (first < 0 ? [[0, "s"]] : parts.slice(first, first + 2)).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

function figures(id, entries) {
  byId(id).replaceChildren(...entries.map(([name, value]) => {
    const box = document.createElement("div");
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    box.append(term, text);
    return box;
  }));
}

// Each cell is a text, or [text, class].
function rows(id, table) {
  byId(id).replaceChildren(...table.map((cells) => {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const [text, style] = Array.isArray(cell) ? cell : [cell, ""];
      const box = document.createElement("td");
      box.textContent = text;
      box.className = style;
      row.append(box);
    }
    return row;
  }));
}

function shape(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function drawCurve(run) {
  const [left, right, top, bottom] = [48, 710, 12, 214];
  const losses = run.losses.filter(Number.isFinite);
  const levels = [["validation", run.val_loss], ["unigram", run.unigram_loss]].filter(([, level]) => Number.isFinite(level));
  const values = losses.concat(levels.map(([, level]) => level));
  if (values.length === 0) { byId("curve").replaceChildren(); return; }
  const margin = Math.max(0.05, 0.05 * (Math.max(...values) - Math.min(...values)));
  const [low, high] = [Math.min(...values) - margin, Math.max(...values) + margin];
  const rounds = Math.max(run.rounds, losses.length, 2);
  const x = (round) => left + (right - left) * (round - 1) / (rounds - 1);
  const y = (loss) => bottom - (bottom - top) * (loss - low) / (high - low);
  const shapes = [];
  for (let tick = 0; tick <= 4; tick += 1) {
    const loss = low + (high - low) * tick / 4;
    shapes.push(shape("line", { class: "grid", x1: left, x2: right, y1: y(loss), y2: y(loss) }));
    shapes.push(shape("text", { x: left - 6, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(2)));
  }
  shapes.push(shape("text", { x: left, y: bottom + 20 }, "1"));
  shapes.push(shape("text", { x: right, y: bottom + 20, "text-anchor": "end" }, `round ${rounds}`));
  for (const [name, level] of levels) {
    shapes.push(shape("line", { class: "level", x1: left, x2: right, y1: y(level), y2: y(level) }));
    shapes.push(shape("text", { x: right, y: y(level) - 5, "text-anchor": "end" }, `${name} ${level.toFixed(3)}`));
  }
  const points = losses.map((loss, index) => `${x(index + 1).toFixed(1)},${y(loss).toFixed(1)}`);
  shapes.push(shape("polyline", { class: "loss", points: points.join(" ") }));
  if (losses.length > 0) {
    shapes.push(shape("circle", { class: "dot", cx: x(losses.length), cy: y(losses.at(-1)), r: 4 }));
  }
  byId("curve").replaceChildren(...shapes);
}

function drawRun(run, self) {
  byId("no-run").hidden = Boolean(run);
  byId("run-body").hidden = !run;
  if (!run) return;
  const loss = run.losses.at(-1);
  byId("run-line").textContent =
    `${short(run.run)}: ${run.state}, ${whole.format(run.parameters)} parameters, owner ${short(run.owner)}`;
  const trouble = run.failure ?? run.paused ?? run.warning;
  byId("run-failure").hidden = !trouble;
  byId("run-failure").textContent = trouble ?? "";
  byId("run-progress").value = run.batches_target > 0 ? run.batches_done / run.batches_target : 0;
  const left = run.batches_done > 0 ? run.training_ms / run.batches_done * (run.batches_target - run.batches_done) : null;
  const listening = run.members.filter((member) => member.role === "listening").length;
  figures("run-figures", [
    ["Batches", `${whole.format(run.batches_done)} of ${whole.format(run.batches_target)}`],
    ["Rounds", whole.format(run.rounds_done)],
    ["Members", `${run.members.length - listening}${listening > 0 ? ` and ${listening} coming in` : ""}`],
    ["View", whole.format(run.view)],
    ["Loss", loss === undefined ? "–" : loss.toFixed(4)],
    ["Tokens", compact.format(run.tokens)],
    ["Tokens/s", whole.format(run.tokens_per_s)],
    ["Time left", run.state === "training" && left !== null ? duration(left) : "–"],
    ["Members agree", run.rounds_done === 0 ? "–" : run.parameter_hashes_equal ? "yes" : "NO"],
    ["Parameters", run.parameter_hash ? short(run.parameter_hash) : "–"],
  ]);
  drawCurve(run);
  rows("members", run.members.map((member) => [
    [short(member.peer) + (member.peer === self ? " (this peer)" : ""), "id"],
    member.role === "listening" ? "listening" : member.ready ? "at work" : "preparing",
    [String(member.rounds_done), "n"],
    [whole.format(member.tokens_per_s), "n"],
    [member.loss === null ? "–" : member.loss.toFixed(4), "n"],
    [whole.format(member.compute_ms), "n"],
    [whole.format(member.reduce_ms), "n"],
  ]));
}

function drawDepartures(run) {
  byId("left-box").hidden = !run || run.left.length === 0;
  if (!run) return;
  rows("left", run.left.toReversed().map((departure) => [
    [short(departure.peer), "id"], departure.reason, [String(departure.view), "n"],
    new Date(departure.at_ms).toLocaleTimeString(),
  ]));
}

function drawLedger(ledger, self) {
  byId("ledger").hidden = !ledger || !ledger.ledger;
  if (!ledger || !ledger.ledger) return;
  byId("ledger-waiting").hidden = !ledger.waiting;
  byId("ledger-waiting").textContent = ledger.waiting ?? "";
  const drills = ledger.drills;
  figures("ledger-figures", [
    ["Ledger", short(ledger.ledger)],
    ["Block", whole.format(ledger.height)],
    ["One each", `${(ledger.epoch_ms / 1000).toFixed(1)} s`],
    ["Committee", whole.format(ledger.committee.length)],
    ["Drills agreed", whole.format(drills.agreed)],
    ["Trusted", whole.format(drills.trusted)],
    ["Disputed", whole.format(drills.disputed)],
    ["Own power", ledger.own ? ledger.own.effective_power.toFixed(6) : "–"],
    ["Own credits", (ledger.balance / 1e6).toFixed(2)],
    ["Credits made", whole.format(ledger.minted / 1e6)],
  ]);
  rows("standings", ledger.standings.map((peer) => [
    [short(peer.peer) + (peer.peer === self ? " (this peer)" : ""), "id"],
    [whole.format(peer.weight), "n"],
    [peer.effective_power.toFixed(6), "n"],
    [reliability(peer.reliability), "n"],
    [String(peer.streak), "n"],
    [String(peer.faults), "n"],
    peer.standby ? "standing by" : "takes part",
  ]));
  byId("faults-box").hidden = ledger.faults.length === 0;
  rows("faults", ledger.faults.toReversed().map((fault) => [
    [short(fault.peer), "id"], fault.kind, [fault.task ? short(fault.task) : "–", "id"],
    [String(fault.height), "n"], [fault.lost.toFixed(6), "n"],
  ]));
  rows("blocks", ledger.recent.slice(-8).toReversed().map((block) => [
    [String(block.height), "n"], new Date(block.time_ms).toLocaleTimeString(), [short(block.proposer), "id"],
    [String(block.transactions), "n"], [short(block.state_root), "id"],
  ]));
}

function reliability({ permille, probes, leases }) {
  if (permille === null) return "–";
  return `${(permille / 10).toFixed(1)} % of ${whole.format(probes)} probes, ${whole.format(leases)} leases`;
}

function draw(status) {
  byId("identity").textContent = `${short(status.peer_id)} on ${status.network}, ${status.device}, version ${status.version}`;
  document.title = `Manta peer ${short(status.peer_id)}`;
  drawRun(status.runs.at(-1), status.peer_id);
  drawDepartures(status.runs.at(-1));
  drawLedger(status.ledger, status.peer_id);
  const traffic = (suffix) => Object.entries(status.traffic)
    .filter(([name]) => name.endsWith(suffix)).reduce((sum, [, count]) => sum + count, 0);
  figures("swarm-figures", [
    ["Connected peers", whole.format(status.connected_peers.length)],
    ["Machines on offer", whole.format(status.listings.length)],
    ["Demands heard", whole.format(status.demands_heard)],
    ["Messages refused", whole.format(status.envelopes_refused)],
    ["Sent", bytes(traffic("_sent"))],
    ["Received", bytes(traffic("_received"))],
    ["Stored", bytes(status.stored_bytes)],
    ["Up for", duration(Date.now() - status.started_at_ms)],
  ]);
  rows("listings", status.listings.map((listing) => [
    [short(listing.peer) + (listing.peer === status.peer_id ? " (this peer)" : ""), "id"],
    listing.device,
    [bytes(listing.memory_bytes), "n"],
    [compact.format(listing.multiply_adds_per_s), "n"],
    listing.region || "–",
    listing.busy ? "busy" : "free",
  ]));
  byId("orders-box").hidden = status.orders.length === 0;
  rows("orders", status.orders.map((order) => [
    [String(order.order), "n"], order.state, [order.run ? short(order.run) : "–", "id"], order.message,
  ]));
  byId("join").textContent = status.ticket ? `manta up --join ${status.ticket}` : "There is no ticket yet.";
}

async function refresh() {
  const alarm = byId("alarm");
  try {
    const answer = await fetch("/api/status", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    draw(await answer.json());
    alarm.hidden = true;
  } catch (error) {
    alarm.textContent = `No answer from the peer (${error.message}); what you see is old.`;
    alarm.hidden = false;
  }
  setTimeout(refresh, REFRESH_MS);
}

refresh();
