// node check.mjs [NAME ...] [--deep] [--json] [--workers N] [--dir DIR]
// Checks that every spec holds with its pinned number of distinct states, and that without any one of
// its guard lines it violates the invariant that the guard names.  Exit 0 if so, otherwise 1.
import { resolve } from 'node:path';
import { Pool, requireChecker } from './checker.mjs';
import { commandLine, run } from './cli.mjs';
import { HERE, Wrong, mutant, names, readSpec } from './spec.mjs';
import { jarOrNull, underTlc } from './tlc.mjs';

const OPTIONS = {
  deep: { type: 'boolean', default: false },
  dir: { type: 'string', default: HERE },
};

function chosen() {
  const { values, positionals } = commandLine(OPTIONS);
  const folder = resolve(values.dir);
  const known = names(folder);
  const unknown = positionals.filter((name) => !known.includes(name));
  if (unknown.length) throw new Wrong(`no spec ${unknown.join(', ')}; there are ${known.join(', ')}`);
  return { ...values, folder, wanted: positionals.length ? positionals : known };
}

const count = (n) => n.toLocaleString('en-US');
const time = (s) => `${s.toFixed(1)} s`;

function judgeSpec(spec, found) {
  if (found.error) return `${spec.name}: ${found.error}`;
  if (found.violated) return `${spec.name}: ${found.violated} is violated:\n${shown(found.trace)}`;
  if (found.states === spec.states) return null;
  return `${spec.name}: ${count(found.states)} distinct states, but ${spec.cfgName} pins ` +
    `${count(spec.states)}; where the change is meant, pin the new number`;
}

function judgeMutant(spec, guard, found) {
  const without = `${spec.name}.tla:${guard.line}: without guard ${guard.name}`;
  if (found.error) return `${without}: ${found.error}`;
  if (!found.violated) return `${without} every invariant still holds: nothing shows it is needed`;
  if (found.violated === guard.invariant) return null;
  return `${without} ${found.violated} is violated first, not ${guard.invariant}:\n` +
    shown(found.trace);
}

function shown(trace) {
  return (trace ?? []).map((state) => state.trim().replace(/^/gm, '    ')).join('\n');
}

/** Checks one spec and its mutants; says each result as it comes. */
async function checkSpec(spec, pool, jar, say) {
  const { name, cfg, invariants, guards } = spec;
  const result = { name, pinned: spec.states, problems: [], mutants: [] };
  const whole = pool.run(spec.tla, cfg, invariants).then((found) => {
    const problem = judgeSpec(spec, found) ?? (jar ? underTlc(jar, spec) : null);
    Object.assign(result, { states: found.states, seconds: found.seconds });
    if (problem) result.problems.push(problem);
    const verdict = problem ? 'FAILS' : `holds${jar ? ', and under TLC' : ''}`;
    say(`${name}: ${verdict}, ${count(found.states)} states, ${time(found.seconds)}`);
  });
  const broken = guards.map(async (guard) => {
    const found = await pool.run(mutant(spec, guard), cfg, invariants);
    const problem = judgeMutant(spec, guard, found);
    const steps = (found.trace?.length ?? 1) - 1;
    const fails = problem === null;
    result.mutants.push({ guard: guard.name, invariant: guard.invariant, steps, fails });
    if (problem) result.problems.push(problem);
    say(fails
      ? `  ${name} without ${guard.name}: ${guard.invariant} fails after ${steps} steps`
      : `  ${name} without ${guard.name}: NOT AS IT MUST`);
  });
  await Promise.all([whole, ...broken]);
  result.mutants.sort((a, b) => (a.guard < b.guard ? -1 : 1));
  return result;
}

async function main() {
  const options = chosen();
  requireChecker();
  const jar = jarOrNull(process.env);
  const specs = options.wanted.map((name) => readSpec(options.folder, name, options.deep));
  specs.sort((a, b) => b.states - a.states);  // the longest first: no worker is left over
  const say = options.json ? (line) => console.error(line) : (line) => console.log(line);
  const pool = new Pool(Number(options.workers));
  const started = Date.now();
  const results = await Promise.all(specs.map((spec) => checkSpec(spec, pool, jar, say)));
  await pool.close();
  results.sort((a, b) => (a.name < b.name ? -1 : 1));
  const problems = results.flatMap((r) => r.problems);
  const mutants = results.reduce((n, r) => n + r.mutants.length, 0);
  const seconds = (Date.now() - started) / 1000;
  if (options.json) {
    const ok = problems.length === 0;
    console.log(JSON.stringify({ ok, deep: options.deep, tlc: jar !== null, seconds, specs: results }));
  }
  if (problems.length) throw new Wrong(problems.join('\n'));
  say(`${time(seconds)}, ${options.workers} workers`);
  say(`${results.length} specs hold, ${mutants} mutants fail as they must`);
}

await run(main);
