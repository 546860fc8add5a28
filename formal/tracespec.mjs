// GuardedCommit.tla with one trace beside it: a state machine that takes exactly the events of the
// trace, each by the action of the spec that it stands for.  Its invariant `NotAccepted` is violated
// where every event could be taken.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { HERE, Wrong, withoutComments } from './spec.mjs';

const NAME = 'GuardedCommit';
// What is told of a state must be so; what is told of a plan must be told of one that was sent.
// Each operator is used with literals only, in the order of its parameters.
const ACTIONS = {
  Never: [[], 'FALSE'],
  Look: [['v1', 'e1', 'live1'], 'Told(v1, e1) /\\ live = live1 /\\ Stays'],
  New: [['op1'], '~Applied(op1) /\\ Stays'],
  Found: [['op1', 'to1'], 'MadeBy(op1, to1) /\\ Stays'],
  Exists: [['op1', 'v1', 'e1'], '~Applied(op1) /\\ live /\\ Told(v1, e1) /\\ Stays'],
  Reclaim: [['v1', 'e1'], "Reclaim /\\ Version = v1 /\\ epoch' = e1"],
  Restart: [['op1'], 'Restart(op1)'],
  Send: [['op1', 'was1', 'at1', 'put1', 'creates1'],
    "Told(was1, at1) /\\ (creates1 => ~live) /\\ Send(op1) /\\ plan'[op1].put = put1"],
  Apply: [['op1', 'was1', 'at1', 'put1', 'to1', 'heard1'],
    "(\\E m \\in Plans(op1, was1, at1, put1) : Apply(m)) /\\ ver' = to1\n" +
    "  /\\ pc'[op1] = (IF heard1 THEN \"done\" ELSE pc[op1])"],
  Moved: [['op1', 'was1', 'at1', 'put1', 'v1', 'e1'],
    'Told(v1, e1) /\\ v1 # was1 /\\ (\\E m \\in Plans(op1, was1, at1, put1) : Refuse(m))'],
  Fenced: [['op1', 'was1', 'at1', 'put1', 'e1'],
    'epoch = e1 /\\ e1 # at1 /\\ (\\E m \\in Plans(op1, was1, at1, put1) : Refuse(m))'],
  MovedAgain: [['op1', 'was1', 'v1', 'e1'], '~Applied(op1) /\\ Told(v1, e1) /\\ v1 # was1 /\\ Stays'],
  FencedAgain: [['op1', 'at1', 'e1'], '~Applied(op1) /\\ epoch = e1 /\\ e1 # at1 /\\ Stays'],
  Replay: [['op1', 'to1'], 'MadeBy(op1, to1) /\\ Replay(plan[op1])'],
};

const SHARED = `
Told(v0, e0) == Version = v0 /\\ epoch = e0
Plans(op0, was0, at0, put0) ==
  {m \\in sent : m.op = op0 /\\ m.v = was0 /\\ m.e = at0 /\\ m.put = put0}
Stays == UNCHANGED <<ver, live, epoch, inc, pc, plan, sent, log, lied>>
MadeBy(op0, to0) == to0 \\in 1..Len(log) /\\ log[to0].op = op0
${Object.entries(ACTIONS).map(([name, [parameters, body]]) =>
    `Take${name}${parameters.length ? `(${parameters.join(', ')})` : ''} == ${body}`).join('\n')}
TInit == Init /\\ at = 1
`;

let read;

/** Returns the module and configuration that accept these events, or not. */
export function traceSpec(events) {
  read ??= spec();
  const names = new Map();
  const nameOf = (op) => names.get(op) ?? names.set(op, `o${names.size}`).get(op);
  const steps = events.map(({ tla }, i) => `     \\/ at = ${i + 1} /\\ ${call(tla, nameOf)}`);
  const ops = [...names.values()].map((name) => `"${name}"`);
  const invariants = read.invariants.map((name) => `(${name})`).join(' /\\ ');
  const last = `at <= ${events.length}`;
  const next = `TNext ==\n  /\\ at' = at + 1\n  /\\${steps.join('\n').slice(4)}\n` +
    `NotAccepted == ${last}\nKept == ${last} \\/ (${invariants})\n`;
  const most = events.length + 1;
  const constants = { Procs: `{${ops.join(', ') || '"o"'}}`, Rival: '"none"',
                      Restarters: `{${ops.join(', ')}}`, MaxCommits: most, MaxFaults: most,
                      MaxPlans: most };
  return {
    tla: `${read.before}${SHARED}${next}\n====\n`,
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

function call({ a, ...told }, nameOf) {
  const values = ACTIONS[a][0].map((name) => {
    const value = told[name.slice(0, -1)];
    return literal(name === 'op1' ? nameOf(value) : value);
  });
  return `Take${a}${values.length ? `(${values.join(', ')})` : ''}`;
}

function literal(value) {
  if (typeof value === 'boolean') return value ? 'TRUE' : 'FALSE';
  if (value === undefined) throw new Error('an event lacks what its action takes');
  return typeof value === 'number' ? `${value}` : `"${value}"`;
}
