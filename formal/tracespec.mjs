// GuardedCommit.tla with one trace beside it: a state machine that takes exactly the events of the
// trace, each by the action of the spec that it stands for.  Its invariant `NotAccepted` is violated
// where every event could be taken.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { HERE, Wrong, withoutComments } from './spec.mjs';

const NAME = 'GuardedCommit';
// Every event has every field; what an action does not look at may hold anything.
const FIELDS = { a: '', op: '', v: 0, e: 0, to: 0, put: false, live: false, heard: false,
                 creates: false, by: '', was: 0, at: 0 };

// What is told of a state must be so; what is told of a plan must be told of one that was sent.
const ACTIONS = `
Ev == Trace[at]
Told == Version = Ev.v /\\ epoch = Ev.e
Plans(p) == {m \\in sent : m.op = p /\\ m.v = Ev.was /\\ m.e = Ev.at /\\ m.put = Ev.put}
Stays == UNCHANGED <<ver, live, epoch, inc, pc, plan, sent, log, lied>>
MadeBy(p) == Ev.to \\in 1..Len(log) /\\ log[Ev.to].op = p
Moved == Told /\\ Ev.v # Ev.was
Fenced == epoch = Ev.e /\\ Ev.e # Ev.at
Refused == IF Ev.by = "epoch" THEN Fenced ELSE Moved

TNext ==
  /\\ at <= Len(Trace)
  /\\ at' = at + 1
  /\\ \\/ Ev.a = "Look" /\\ Told /\\ live = Ev.live /\\ Stays
     \\/ Ev.a = "New" /\\ ~Applied(Ev.op) /\\ Stays
     \\/ Ev.a = "Found" /\\ MadeBy(Ev.op) /\\ Stays
     \\/ Ev.a = "Exists" /\\ ~Applied(Ev.op) /\\ live /\\ Told /\\ Stays
     \\/ Ev.a = "Reclaim" /\\ Reclaim /\\ Version = Ev.v /\\ epoch' = Ev.e
     \\/ Ev.a = "Restart" /\\ Restart(Ev.op)
     \\/ Ev.a = "Send" /\\ Send(Ev.op) /\\ plan'[Ev.op].v = Ev.v /\\ plan'[Ev.op].e = Ev.e
          /\\ plan'[Ev.op].put = Ev.put /\\ (Ev.creates => ~live)
     \\/ Ev.a = "Apply" /\\ (\\E m \\in Plans(Ev.op) : Apply(m)) /\\ ver' = Ev.to
          /\\ pc'[Ev.op] = (IF Ev.heard THEN "done" ELSE pc[Ev.op])
     \\/ Ev.a = "Refuse" /\\ Refused /\\ (\\E m \\in Plans(Ev.op) : Refuse(m))
     \\/ Ev.a = "Deny" /\\ Refused /\\ ~Applied(Ev.op) /\\ Stays
     \\/ Ev.a = "Replay" /\\ MadeBy(Ev.op) /\\ Replay(plan[Ev.op])
TInit == Init /\\ at = 1
NotAccepted == at <= Len(Trace)
`;

let read;

/** Returns the module and configuration that accept these events, or not. */
export function traceSpec(events) {
  read ??= spec();
  const names = new Map();
  const nameOf = (op) => names.get(op) ?? names.set(op, `o${names.size}`).get(op);
  const rows = events.map(({ tla }) => row(tla, nameOf));
  const ops = [...names.values()].map((name) => `"${name}"`);
  const invariants = read.invariants.map((name) => `(${name})`).join(' /\\ ');
  const trace = `Trace == <<${rows.join(',\n  ')}>>\nKept == at <= Len(Trace) \\/ (${invariants})\n`;
  const most = events.length + 1;
  const constants = { Procs: `{${ops.join(', ') || '"o"'}}`, Rival: '"none"',
                      Restarters: `{${ops.join(', ')}}`, MaxCommits: most, MaxFaults: most,
                      MaxPlans: most };
  return {
    tla: `${read.before}${trace}${ACTIONS}\n====\n`,
    cfg: ['INIT TInit', 'NEXT TNext', 'CONSTANTS',
          ...Object.entries(constants).map(([name, value]) => `  ${name} = ${value}`),
          'INVARIANTS', '  Kept', '  NotAccepted', 'CHECK_DEADLOCK FALSE', ''].join('\n'),
    invariants: ['Kept', 'NotAccepted'],
  };
}

function spec() {
  const [tla, cfg] = ['tla', 'cfg'].map((kind) => readFileSync(join(HERE, `${NAME}.${kind}`), 'utf8'));
  const bare = withoutComments(tla);
  const before = bare.replace(/^VARIABLES$/m, 'VARIABLES\n  at,').replace(/\n=+\s*$/, '\n');
  if (!before.includes('\n  at,') || before.includes('====')) throw new Wrong(`${NAME}: no VARIABLES`);
  const listed = withoutComments(cfg).split(/^INVARIANTS$/m)[1].split(/^CHECK_DEADLOCK/m)[0];
  return { before, invariants: listed.split(/\s+/).filter(Boolean) };
}

function row(tla, nameOf) {
  const event = { ...FIELDS, ...tla, op: tla.op === undefined ? '' : nameOf(tla.op) };
  const values = Object.entries(event).map(([name, value]) => `${name} |-> ${literal(value)}`);
  return `[${values.join(', ')}]`;
}

function literal(value) {
  if (typeof value === 'boolean') return value ? 'TRUE' : 'FALSE';
  return typeof value === 'number' ? `${value}` : `"${value}"`;
}
