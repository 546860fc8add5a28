// node traces.mjs PATH ... [--json] [--workers N]
// Checks that what real processes recorded is a behaviour of GuardedCommit.tla.  A path is a file or
// a folder that INTERLOCK_RECORD named.  Exit 1 where a trace is rejected, or nothing could be checked.
import { Pool, requireChecker } from './checker.mjs';
import { commandLine, run } from './cli.mjs';
import { eventsByKey } from './events.mjs';
import { Wrong } from './spec.mjs';
import { readTraces } from './tracefile.mjs';
import { traceSpec } from './tracespec.mjs';

function chosen() {
  const { values, positionals } = commandLine();
  if (!positionals.length) throw new Wrong('name the files or folders that hold the traces');
  return { ...values, paths: positionals };
}

/** Returns null where the spec takes every event, else the first one that it does not take. */
async function firstWrong(pool, events) {
  if (!events.length) return null;
  const { tla, cfg, invariants } = traceSpec(events);
  const found = await pool.run(tla, cfg, invariants);
  if (found.error) throw new Wrong(found.error);
  if (found.violated === 'NotAccepted' && found.states === events.length + 1) return null;
  if (found.violated === 'Kept') throw new Wrong('the spec takes every event, and breaks a promise');
  if (found.violated || found.states > events.length) {
    throw new Wrong(`${found.states} states for ${events.length} events: one leads to several`);
  }
  return events[found.states - 1];  // each event leads to one state
}

/** Checks the keys of one trace. */
async function checkTrace(pool, trace) {
  const { covered, left } = eventsByKey(trace.requests);
  const result = { name: trace.name, space: trace.space, keys: [], left: Object.fromEntries(left) };
  for (const [key, events] of covered) {
    const wrong = await firstWrong(pool, events);
    const judged = { key, events: events.length, accepted: wrong === null };
    result.keys.push(wrong ? { ...judged, wrong: told(wrong, events) } : judged);
  }
  result.accepted = result.keys.length > 0 && result.keys.every((key) => key.accepted);
  return result;
}

/** What is wrong, with the version and epoch that were in force before it. */
function told(event, events) {
  const { file, agent } = event.request;
  const before = events.slice(0, events.indexOf(event)).map(({ tla }) => tla);
  const version = before.filter(({ a }) => a === 'Apply').at(-1)?.to ?? 0;
  const epoch = before.filter(({ a }) => a === 'Reclaim').at(-1)?.e ?? 0;
  return { number: before.length + 1, file, line: event.line, agent, op: event.tla.op ?? null,
           text: event.text, version, epoch };
}

async function main() {
  const options = chosen();
  requireChecker();
  const traces = readTraces(options.paths);
  if (!traces.length) throw new Wrong('there are no traces');
  const pool = new Pool(Number(options.workers));
  const started = Date.now();
  const results = await Promise.all(traces.map((trace) => checkTrace(pool, trace)))
    .finally(() => pool.close());
  const rejected = results.filter(({ keys }) => keys.some((key) => !key.accepted));
  const accepted = results.filter((result) => result.accepted);
  const keys = results.flatMap((result) => result.keys);
  const total = {
    traces: results.length,
    accepted: accepted.length,
    rejected: rejected.length,
    keys: keys.length,
    left: results.reduce((n, result) => n + Object.keys(result.left).length, 0),
    events: keys.reduce((n, key) => n + key.events, 0),
    seconds: (Date.now() - started) / 1000,
  };
  const ok = accepted.length > 0 && !rejected.length;
  if (options.json) console.log(JSON.stringify({ ok, ...total, results }));
  else say(results, total);
  process.exitCode = ok ? 0 : 1;
}

function say(results, total) {
  for (const { name, keys, left } of results) {
    for (const [key, why] of Object.entries(left)) console.log(`${name}: ${key} is left out: ${why}`);
    for (const { key, events, wrong } of keys.filter((each) => !each.accepted)) {
      console.error(`${name}: ${key}: event ${wrong.number} of ${events} is wrong\n` +
        `  ${wrong.file}:${wrong.line}: ${wrong.agent || 'somebody'}: ${wrong.text}\n` +
        `  in force before it: version ${wrong.version} at epoch ${wrong.epoch}`);
    }
  }
  const out = total.left ? `, ${total.left} keys left out` : '';
  console.log(`${total.events} events of ${total.keys} keys${out}, ${total.seconds.toFixed(1)} s`);
  console.log(`${total.accepted} of ${total.traces} traces accepted`);
}

await run(main);
