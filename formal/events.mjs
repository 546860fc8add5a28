// From a trace to events of GuardedCommit.tla, one sequence for each key, in the order in which they
// happened.  docs/explanation/traces.md says how that order is found.
import { recordsTold } from './tracefile.mjs';

const THINGS = { put: 'write', delete: 'deletion' };
const CHANGE = 0;  // what makes a state comes first in it,
const CREATE = 2;  // a creation reads what it finds last in it, everything else lies in between
const LIBRARYS_OWN = '$';

/** Returns {covered: {key: events}, left: {key: why}}. */
export function eventsByKey(requests) {
  const log = logOf(requests);
  const [covered, left] = [new Map(), new Map()];
  for (const key of keysOf(requests, log)) {
    const why = uncovered(requests, log, key);
    if (why) left.set(key, why);
    else covered.set(key, new KeyEvents(requests, log, key).ordered());
  }
  return { covered, left };
}

/** Every entry of the log that somebody read: {position, key, version, ..., request}. */
function logOf(requests) {
  const entries = new Map();
  for (const request of requests) {
    for (const row of request.told?.entries ?? []) {
      const [position, key, version, epoch, kind, agent, op] = row;
      if (!entries.has(position)) {
        entries.set(position, { position, key, version, epoch, kind, agent, op, request });
      }
    }
  }
  return [...entries.values()].sort((a, b) => a.position - b.position);
}

const keysWritten = ({ ask }) => (ask.ask === 'Commit' ? ask.writes.map(([, key]) => key) : []);

function keysOf(requests, log) {
  const keys = new Set(log.map((entry) => entry.key));
  for (const request of requests) {
    keysWritten(request).forEach((key) => keys.add(key));
    if (request.ask.ask === 'TakeLease') request.ask.keys.forEach((key) => keys.add(key));
  }
  return [...keys].filter((key) => !key.startsWith(LIBRARYS_OWN)).sort();
}

/** Why the spec does not speak of what was done to a key. */
function uncovered(requests, log, key) {
  if (!requests.some((r) => r.told?.entries)) return 'nobody read the log when the run was over';
  if (log.some((entry) => entry.key === key && entry.kind === 'append')) return 'appended to';
  for (const { ask, told } of requests.filter((r) => keysWritten(r).includes(key))) {
    if (ask.writes.some(([kind]) => kind === 'append')) return 'appended to';
    if (ask.writes.length + ask.scans.length > 1 || ask.expects.length !== 1) return 'transactions';
    if (ask.incarnation || (told?.told === 'Fenced' && !told.key)) return 'a name taken over';
    if (told?.told === 'Invalid') return 'one operation id for several operations';
  }
  return null;
}

/** Two places in the life of a key.  Each change raises its version or its epoch. */
const compare = (a, b) => a[0] - b[0] || a[1] - b[1];
const later = (a, b) => (compare(a, b) < 0 ? b : a);

/** The events of one key. */
class KeyEvents {
  constructor(requests, log, key) {
    this.key = key;
    this.requests = requests;
    this.entries = log.filter((entry) => entry.key === key);
    this.byPosition = new Map(log.map((entry) => [entry.position, entry]));
    this.events = [];
    this.granted = new Map();  // epoch: the request that is known to have raised to it
    this.doubtful = [];        // requests that may have raised the epoch without telling
    this.accounted = new Set();  // positions whose commit was acknowledged
    this.witnessed = this.#witnessed();
  }

  ordered() {
    this.#looks();
    this.#raises();
    for (const sendings of this.#operations().values()) new Operation(this, sendings).play();
    this.#unacknowledged();
    this.#hiddenRaises();
    const events = this.events.map((event, i) => ({ ...event, i })).sort(inOrder);
    markLate(events);
    return events;
  }

  /** Adds an event: what the spec is to do, at which place, and which line says so. */
  add(tla, place, rank, time, request, text, options = {}) {
    this.events.push({ tla, place, rank, time, request, text, line: request.toldLine, ...options });
  }

  never(place, rank, request, text, options = {}) {
    this.add({ a: 'Never' }, place, rank, request.t0, request, text, options);
  }

  entryOf(op) {
    return this.entries.find((entry) => entry.op === op);
  }

  /** The first place where the epoch is at least `epoch`, as far as anybody saw. */
  epochFrom(epoch) {
    return this.witnessed.find(({ place }) => place[1] >= epoch)?.place ?? [0, epoch];
  }

  /** A place that had been reached when something was asked for: somebody had been told of it. */
  reachedBefore({ clock, t0 }) {
    const before = this.witnessed.filter(({ request }) => request.clock === clock && request.t1 < t0);
    return before.reduce((place, seen) => later(place, seen.place), [0, 0]);
  }

  wasSeen(place) {
    return this.witnessed.some((seen) => !compare(seen.place, place));
  }

  #witnessed() {
    const seen = [];
    for (const request of this.requests) {
      for (const [key, version, epoch] of recordsTold(request)) {
        if (key === this.key) seen.push({ place: [version, epoch], request });
      }
      for (const [key, version, epoch] of request.told?.writes ?? []) {
        if (key === this.key) seen.push({ place: [version, epoch], request, entry: true });
      }
    }
    for (const entry of this.entries) {
      seen.push({ place: [entry.version, entry.epoch], request: entry.request, entry });
    }
    return seen.sort((a, b) => compare(a.place, b.place) || (a.entry ? 0 : 1) - (b.entry ? 0 : 1));
  }

  #looks() {
    for (const request of this.requests) {
      const { ask, told } = request;
      if (ask.ask === 'LoadAt' || told?.told === 'Conflict') continue;
      for (const [key, version, epoch, exists] of recordsTold(request)) {
        if (key !== this.key) continue;
        const text = `was told of version ${version} at epoch ${epoch}${exists ? '' : ', not there'}`;
        const look = { a: 'Look', v: version, e: epoch, live: exists };
        this.add(look, [version, epoch], 1, request.t1, request, text, { exact: true });
      }
      if (ask.ask === 'Load' && ask.op_id && ask.keys.includes(this.key)) this.#asked(request);
    }
  }

  /** Somebody asked whether an operation was applied. */
  #asked(request) {
    const { ask, told } = request;
    const done = told?.applied?.writes.find(([key]) => key === this.key);
    const now = told?.records?.find(([key]) => key === this.key);
    if (!now || (told.applied && !done)) return;
    const found = done ? { a: 'Found', op: ask.op_id, to: done[1] } : { a: 'New', op: ask.op_id };
    const text = `was told that ${ask.op_id} ${done ? `made version ${done[1]}` : 'was not applied'}`;
    this.add(found, [now[1], now[2]], 1, request.t1, request, text, { exact: true });
  }

  /** Grants and reclaims, which raise the epoch once for each name, however often they are sent. */
  #raises() {
    const names = new Map();
    for (const request of this.requests) {
      const { ask } = request;
      if (ask.ask !== 'TakeLease' || !ask.keys.includes(this.key) || ask.epoch) continue;
      names.set(ask.name, [...(names.get(ask.name) ?? []), request]);
    }
    for (const sendings of names.values()) {
      const doubt = sendings.filter((request) => request.inDoubt);
      if (doubt.length) this.doubtful.push(doubt[0]);
      else for (const request of sendings) this.#raise(request);
    }
    this.doubtful.sort((a, b) => a.t0 - b.t0);
  }

  #raise(request) {
    const { ask, told } = request;
    if (!told.told || told.refusal || !(told.granted || ask.reclaim)) return;
    const [[, version, epoch]] = told.records;
    const text = `${ask.reclaim ? 'reclaimed the key' : 'was granted the lease'} at epoch ${epoch}`;
    if (this.granted.has(epoch)) {
      if (this.granted.get(epoch).ask.name === ask.name) return;  // the same answer again
      this.never([version, epoch], CHANGE, request, `${text}, which somebody else was given`);
    } else {
      this.granted.set(epoch, request);
      const tla = { a: 'Reclaim', v: version, e: epoch };
      this.add(tla, [version, epoch], CHANGE, request.t1, request, text, { exact: true });
    }
  }

  #operations() {
    const operations = new Map();
    for (const request of this.requests) {
      if (!keysWritten(request).includes(this.key)) continue;
      const op = request.ask.op_id;
      operations.set(op, [...(operations.get(op) ?? []), request]);
    }
    return operations;
  }

  /** Adds a commit that the log holds, or that somebody was told of. */
  applied(plan, version, epoch, request, text, heard) {
    const tla = { a: 'Apply', op: plan.op, was: plan.v, at: plan.e, put: plan.put, to: version, heard };
    const options = { exact: true, line: heard ? request.toldLine : request.line };
    const span = heard ? {} : { t1: Infinity };
    const from = plan.creates ? '' : `, computed from version ${plan.v} at epoch ${plan.e}`;
    this.add(tla, [version, epoch], CHANGE, request.t1, request, text + from, { ...options, ...span });
    if (epoch === plan.e + 1 && this.#tookAway(request, epoch)) {
      const taken = { a: 'Reclaim', v: version, e: epoch };
      this.granted.set(epoch, request);
      this.add(taken, [version, epoch], CHANGE + 0.5, request.t1, request, text, options);
    }
  }

  /** Whether a write took away a lease whose time was up, which raises the epoch, too: unless a
      request whose answer was lost may have raised it, and is not needed to explain a raise before. */
  #tookAway(request, epoch) {
    const before = Array.from({ length: epoch - 1 }, (_, i) => i + 1);
    const needed = before.filter((each) => !this.granted.has(each)).length;
    const leases = this.granted.size + this.doubtful.length;
    const raised = this.granted.has(epoch) || this.doubtful.length > needed;
    return leases > 0 && !raised && !request.ask.leased.includes(this.key);
  }

  /** What the log holds and nobody was told of: the answer was lost, or nobody had asked. */
  #unacknowledged() {
    for (const entry of this.entries.filter((e) => !this.accounted.has(e.position))) {
      const lost = this.requests.filter(({ ask, inDoubt }) =>
        inDoubt && ask.ask === 'Commit' && ask.op_id === entry.op);
      const fits = lost.find(({ ask }) => ask.expects[0][1] === entry.version - 1);
      const sent = fits ?? lost[0];
      const where = `in the log at position ${entry.position}, as version ${entry.version}`;
      if (sent) {
        const text = `${nameOf(sent.ask)}, whose answer was lost, is ${where}`;
        this.applied(planOf(sent.ask, entry), entry.version, entry.epoch, sent, text, false);
      } else {
        const text = `operation ${entry.op} of ${entry.agent} is ${where}, and no sending explains it`;
        this.never([entry.version, entry.epoch], CHANGE, entry.request, text);
      }
    }
  }

  /** Where the epoch is higher than anybody was told to have raised it. */
  #hiddenRaises() {
    const highest = Math.max(0, ...this.witnessed.map(({ place }) => place[1]));
    for (let epoch = 1; epoch <= highest; epoch++) {
      if (this.granted.has(epoch)) continue;
      const first = this.witnessed.find(({ place }) => place[1] >= epoch);
      const place = [first.place[0] - (first.entry ? 1 : 0), epoch];
      const request = this.doubtful.shift();
      const text = `the epoch rises to ${epoch}`;
      if (request) {
        const why = `${text}: the answer to a ${request.ask.ask} was lost`;
        const tla = { a: 'Reclaim', v: place[0], e: epoch };
        const options = { line: request.line, exact: true, t1: Infinity };
        this.add(tla, place, CHANGE, request.t0, request, why, options);
      } else {
        this.never(place, CHANGE, first.request, `${text}, and nobody asked for that`);
      }
    }
  }
}

const nameOf = (ask) => `${THINGS[ask.writes[0][0]]} ${ask.op_id}`;

/** What a plan was computed from; a creation, from what it finds. */
function planOf(ask, entry) {
  const [, v, e] = ask.expects[0];
  const put = ask.writes[0][0] === 'put';
  if (v !== null) return { op: ask.op_id, v, e, put, creates: false };
  return { op: ask.op_id, v: entry ? entry.version - 1 : null, e: entry?.epoch, put, creates: true };
}

/** The sendings of one operation, played as its process lives them. */
class Operation {
  constructor(of, sendings) {
    this.of = of;
    this.sendings = sendings;
    this.waits = null;      // the plan whose answer is awaited
    this.sent = new Set();  // plans that may arrive at any time
    this.done = false;
    this.last = [0, 0];     // where its last event is
  }

  play() {
    for (const request of this.sendings) {
      const { ask, told, inDoubt } = request;
      const plan = planOf(ask, this.of.entryOf(ask.op_id));
      if (plan.v !== null) this.#send(request, plan);
      if (!inDoubt && told.told) this.#answer(request, plan, told);
    }
  }

  #float(place) {
    this.last = later(this.last, place);
    return this.last;
  }

  #send(request, plan) {
    const name = `${plan.v}/${plan.e}/${plan.put}`;
    if (this.done || this.waits === name || this.sent.has(name)) return;
    const known = plan.creates || this.of.wasSeen([plan.v, plan.e]) || plan.v + plan.e === 0;
    const place = this.#float(known ? [plan.v, plan.e] : this.of.reachedBefore(request));
    const [rank, time] = [plan.creates ? CREATE : 1, request.t0];
    const text = `sent ${nameOf(request.ask)}, computed from version ${plan.v} at epoch ${plan.e}`;
    const options = { line: request.line, exact: false };
    const sent = { op: plan.op, was: plan.v, at: plan.e, put: plan.put };
    if (this.waits !== null) {
      this.of.add({ a: 'Restart', op: plan.op }, place, rank, time, request, text, options);
    }
    if (known) {
      const tla = { ...sent, a: 'Send', creates: plan.creates };
      this.of.add(tla, place, rank, time, request, text, options);
    } else {
      this.of.never(place, rank, request, `${text}, which nobody was told of`, options);
    }
    this.waits = name;
    this.sent.add(name);
  }

  #answer(request, plan, told) {
    if (told.told === 'Committed') return this.#committed(request, plan, told);
    const { op } = plan;
    if (told.told === 'Conflict' || told.told === 'Fenced') {
      return this.#refused(request, plan, told);
    }
    const text = `${nameOf(request.ask)} was answered ${told.told}`;
    const place = this.#float(this.of.reachedBefore(request));
    return this.of.add({ a: 'New', op }, place, 1, request.t1, request, text);
  }

  #committed(request, plan, told) {
    const [, version, epoch, position] = told.writes[0];
    const text = `${nameOf(request.ask)} was answered: committed as version ${version}`;
    if (told.replayed) {
      const place = this.#float([version, epoch]);
      const a = this.waits === null ? 'Found' : 'Replay';
      this.of.add({ a, op: plan.op, to: version }, place, 1, request.t1, request, `${text} before`);
    } else {
      const place = this.#float([version, epoch]);
      const entry = this.of.byPosition.get(position);
      const fits = entry && entry.op === plan.op && entry.key === this.of.key &&
        entry.version === version && entry.epoch === epoch;
      if (!fits || plan.v === null || this.of.accounted.has(position)) {
        const why = `${text}, position ${position}, where the log holds ${entry?.op ?? 'nothing'}`;
        this.of.never(place, CHANGE, request, why, { exact: true });
      } else {
        this.of.accounted.add(position);
        this.of.applied(plan, version, epoch, request, text, this.waits !== null);
      }
    }
    this.waits = null;
    this.done = true;
  }

  #refused(request, plan, told) {
    const text = `${nameOf(request.ask)} was answered ${told.told}`;
    const moved = told.told === 'Conflict';
    const at = moved ? [told.actual, told.records[0][2]]
      : later(this.of.epochFrom(told.current), this.of.reachedBefore(request));
    const place = this.#float(at);
    const inForce = moved ? { v: at[0], e: at[1] } : { e: told.current };
    const again = this.waits === null ? 'Again' : '';
    const a = plan.creates ? 'Exists' : `${moved ? 'Moved' : 'Fenced'}${again}`;
    const tla = { a, op: plan.op, was: plan.v, at: plan.e, put: plan.put, ...inForce };
    const more = `${text}: ${moved ? `version ${at[0]}` : `epoch ${told.current}`} is in force`;
    this.of.add(tla, place, 1, request.t1, request, more, { exact: moved });
    if (!plan.creates) this.waits = null;
  }
}

function inOrder(a, b) {
  return compare(a.place, b.place) || a.rank - b.rank || a.time - b.time || a.i - b.i;
}

/** Whatever was over before something else was asked for cannot come after it. */
function markLate(events) {
  const earliest = new Map();  // clock: the first end of all that comes later
  for (const event of [...events].reverse()) {
    const { clock, t0 } = event.request;
    const ended = event.t1 ?? event.request.t1;
    if (event.exact && t0 > (earliest.get(clock) ?? Infinity)) {
      event.tla = { a: 'Never' };
      event.text += ', which was over before it asked';
    }
    if (event.exact) earliest.set(clock, Math.min(ended, earliest.get(clock) ?? Infinity));
  }
}
