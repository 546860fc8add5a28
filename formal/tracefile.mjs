// Reads what `INTERLOCK_RECORD` left behind: files of JSON lines, one for each space that a process
// opened.  docs/explanation/traces.md says what the lines hold.
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Wrong } from './spec.mjs';

const FORMAT = 1;
const NOT_SENT = new Set(['Unavailable', 'Closed']);  // faults that say so

/** Returns the traces of files and folders: {space, name, requests}, one for each space. */
export function readTraces(paths) {
  const spaces = new Map();
  for (const file of paths.flatMap(filesIn)) {
    const { head, requests } = readOne(file);
    if (!spaces.has(head.space)) {
      spaces.set(head.space, { space: head.space, name: head.name, requests: [] });
    }
    spaces.get(head.space).requests.push(...requests);
  }
  for (const trace of spaces.values()) trace.requests.sort((a, b) => a.t0 - b.t0);
  const named = (a, b) => a.name.localeCompare(b.name, 'en', { numeric: true });
  return [...spaces.values()].sort(named);
}

function filesIn(path) {
  try {
    if (!statSync(path).isDirectory()) return [path];
    return readdirSync(path).filter((f) => f.endsWith('.jsonl')).sort().map((f) => join(path, f));
  } catch (problem) {
    throw new Wrong(`${path}: ${problem.message}`);
  }
}

function readOne(file) {
  const lines = readFileSync(file, 'utf8').split('\n');
  lines.pop();  // empty, or half a line of a process that died while it wrote
  if (!lines.length) throw new Wrong(`${file}: no line says what is recorded here`);
  const parsed = lines.map((text, i) => parse(file, i + 1, text));
  const head = parsed[0];
  if (head.trace !== FORMAT) throw new Wrong(`${file}:1: not a trace of format ${FORMAT}`);
  const requests = new Map();
  let agent = '';
  parsed.slice(1).forEach((line, i) => {
    const place = `${file}:${i + 2}`;
    if (line.ask !== undefined) {
      if (line.ask === 'Enter') agent = line.agent;
      requests.set(line.n, asked(file, head, line, i + 2, agent));
    } else if (!requests.has(line.n) || requests.get(line.n).told) {
      throw new Wrong(`${place}: answers request ${line.n}, which nobody waits for`);
    } else {
      answered(requests.get(line.n), line, i + 2);
    }
  });
  return { head, requests: [...requests.values()] };
}

function parse(file, number, text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Wrong(`${file}:${number}: not a line of JSON`);
  }
}

function asked(file, head, ask, line, agent) {
  return {
    file, line, agent, ask, clock: head.clock, t0: ask.at, t1: Infinity,
    told: null, toldLine: 0, inDoubt: true,
  };
}

function answered(request, told, line) {
  request.told = told;
  request.toldLine = line;
  request.t1 = told.at;
  request.inDoubt = told.told === undefined && !NOT_SENT.has(told.fault);
  if (request.inDoubt) request.t1 = Infinity;
}

/** Yields [key, version, epoch, exists] of every record that a request was told of. */
export function recordsTold({ told }) {
  return [...(told?.records ?? []), ...Object.values(told?.scans ?? {}).flat()];
}
