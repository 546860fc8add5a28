// What the command lines of check.mjs and traces.mjs have in common.
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { Wrong } from './spec.mjs';

const OPTIONS = {
  json: { type: 'boolean', default: false },
  workers: { type: 'string', default: String(Math.min(availableParallelism(), 8)) },
};

/** Returns the values of the options, and the other arguments.  Throws Wrong. */
export function commandLine(more = {}) {
  let parsed;
  try {
    parsed = parseArgs({ options: { ...OPTIONS, ...more }, allowPositionals: true });
  } catch (problem) {
    throw new Wrong(problem.message);
  }
  const { workers } = parsed.values;
  if (!/^[1-9]\d*$/.test(workers)) throw new Wrong(`--workers ${workers} is not a number from 1`);
  return parsed;
}

/** Runs a program; what is wrong is said in a line, with exit code 1. */
export async function run(main) {
  try {
    await main();
  } catch (problem) {
    if (!(problem instanceof Wrong)) throw problem;
    console.error(problem.message);
    process.exit(1);
  }
}
