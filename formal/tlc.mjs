// Runs a spec under TLC, where TLA2TOOLS_JAR names its jar, and compares the distinct states.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Wrong } from './spec.mjs';

const LONGEST_MS = 3_600_000;

/** The jar to use, or null where none was asked for.  Throws Wrong. */
export function jarOrNull(environment) {
  const jar = environment.TLA2TOOLS_JAR;
  if (!jar) return null;
  if (!existsSync(jar)) throw new Wrong(`TLA2TOOLS_JAR names ${jar}, which is not there`);
  try {
    execFileSync('java', ['-version'], { stdio: 'ignore' });
  } catch {
    throw new Wrong('TLA2TOOLS_JAR is set, but `java` does not run; install Java 11 or newer');
  }
  return jar;
}

/** What is wrong with a spec under TLC; null where it holds with the pinned states. */
export function underTlc(jar, spec) {
  const scratch = mkdtempSync(join(tmpdir(), 'interlock-tlc-'));
  try {
    const ran = spawnSync(
      'java',
      ['-cp', jar, 'tlc2.TLC', '-deadlock', '-metadir', scratch, '-workers', 'auto',
        '-config', spec.cfgName, `${spec.name}.tla`],
      { cwd: spec.folder, encoding: 'utf8', timeout: LONGEST_MS, maxBuffer: 1 << 28 });
    const output = `${ran.stdout}${ran.stderr}`;
    const counted = [...output.matchAll(/(\d+) distinct states found/g)].at(-1);
    if (ran.status !== 0 || !counted || !output.includes('No error has been found')) {
      return `${spec.name}: TLC exits with ${ran.status}:\n${output.slice(-2000)}`;
    }
    if (Number(counted[1]) === spec.states) return null;
    return `${spec.name}: TLC finds ${counted[1]} distinct states, ${spec.cfgName} pins ${spec.states}`;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
