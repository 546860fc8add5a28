// Runs the npm package tla-checker (WASM) in worker threads.  Whatever it answers that is neither a
// finished search nor a violated invariant is an error: limits are explicit, warnings count.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Worker, isMainThread, parentPort } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { HERE, Wrong, withoutComments } from './spec.mjs';

const VERSION = '0.9.0';
const MAX_STATES = 1_000_000;
const MAX_DEPTH = 10_000;
const PACKAGE = join(HERE, 'node_modules', 'tla-checker');

/** Throws Wrong where the pinned checker is not installed. */
export function requireChecker() {
  const file = join(PACKAGE, 'package.json');
  if (!existsSync(file)) {
    throw new Wrong(`tla-checker is not installed: run \`npm ci\` in ${HERE} (make specs does)`);
  }
  const { version } = JSON.parse(readFileSync(file, 'utf8'));
  if (version !== VERSION) throw new Wrong(`tla-checker ${version} is installed, not ${VERSION}`);
}

/** A fixed number of workers; `run` resolves to {states, seconds, violated, trace} or {error}. */
export class Pool {
  constructor(size) {
    this.waiting = [];
    this.workers = Array.from({ length: size }, () => this.#worker());
  }

  run(tla, cfg, invariants) {
    return new Promise((resolve) => {
      this.waiting.push({ job: { tla, cfg, invariants }, resolve });
      this.#next();
    });
  }

  close() {
    return Promise.all(this.workers.map((w) => w.thread.terminate()));
  }

  #worker() {
    const worker = { thread: null, busy: null };
    this.#start(worker);
    return worker;
  }

  #start(worker) {
    const done = (answer) => {
      const { resolve } = worker.busy;
      worker.busy = null;
      resolve(answer);
      this.#next();
    };
    worker.thread = new Worker(fileURLToPath(import.meta.url));
    worker.thread.on('message', done);
    worker.thread.on('error', (problem) => {
      this.#start(worker);
      if (worker.busy) done({ error: `the checker crashed: ${problem.message}` });
    });
  }

  #next() {
    const worker = this.workers.find((w) => !w.busy);
    if (!worker || !this.waiting.length) return;
    worker.busy = this.waiting.shift();
    worker.thread.postMessage(worker.busy.job);
  }
}

function check(tla, { tla: source, cfg, invariants }) {
  const started = process.hrtime.bigint();
  const raw = tla.check_spec_with_cfg(
    withoutComments(source), withoutComments(cfg), '{}', MAX_STATES, MAX_DEPTH, true, false);
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  const found = JSON.parse(raw);
  const trace = (found.trace ?? []).join('\n').split(/^(?=State \d+$)/m).filter(Boolean);
  const base = { states: found.states_explored, seconds };
  if (found.warnings?.length) return { ...base, error: `warnings: ${found.warnings.join('; ')}` };
  if (found.success) return base;
  const index = /^Invariant (\d+) violated$/.exec(found.error_message ?? '');
  if (found.error_type !== 'InvariantViolation' || !index) {
    return { ...base, error: `${found.error_type}: ${found.error_message}`, trace };
  }
  return { ...base, violated: invariants[Number(index[1])], trace };
}

if (!isMainThread) {
  const tla = await import('tla-checker');
  tla.initSync({ module: readFileSync(join(PACKAGE, 'tla_checker_bg.wasm')) });
  parentPort.on('message', (job) => parentPort.postMessage(check(tla, job)));
}
