// A spec as it stands in a folder: NAME.tla, its configuration NAME.cfg (or NAME.deep.cfg), what
// must come out, and its mutants.  Nothing is checked here but the text.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { captured } from './capture.mjs';

export const HERE = dirname(fileURLToPath(import.meta.url));
const GUARD = /^\s*(\/\\|\\\/) .*\S\s+\\\* @guard ([\w-]+) -> (\w+)$/;
const RULES = JSON.parse(readFileSync(join(HERE, 'lint.json'), 'utf8'));

/** What is wrong, as a sentence for whoever runs the check. */
export class Wrong extends Error {}

export function names(folder) {
  return readdirSync(folder).filter((f) => f.endsWith('.tla')).map((f) => f.slice(0, -4)).sort();
}

/** Reads a spec with the bounds of `deep` or the small ones.  Throws Wrong. */
export function readSpec(folder, name, deep) {
  const cfgName = deep ? `${name}.deep.cfg` : `${name}.cfg`;
  const [tla, cfg] = [`${name}.tla`, cfgName].map((file) => {
    if (!existsSync(join(folder, file))) throw new Wrong(`${name}: there is no ${file} in ${folder}`);
    return readFileSync(join(folder, file), 'utf8');
  });
  const problems = [...lint('tla', `${name}.tla`, tla), ...lint('cfg', cfgName, cfg)];
  const pin = /^\\\* @states (\d+)$/m.exec(cfg);
  if (!pin) problems.push(`${cfgName}: no line \\* @states N pins the number of distinct states`);
  const listed = withoutComments(cfg).split(/^INVARIANTS$/m)[1] ?? '';
  const invariants = listed.split(/^CHECK_DEADLOCK/m)[0].split(/\s+/).filter(Boolean);
  if (!invariants.length) problems.push(`${cfgName}: no INVARIANTS`);
  const guards = guardsOf(name, tla, invariants, problems);
  if (problems.length) throw new Wrong(problems.join('\n'));
  return { name, folder, tla, cfg, cfgName, states: Number(pin[1]), invariants, guards };
}

/** The spec without one of its guard lines. */
export function mutant(spec, guard) {
  return spec.tla.split('\n').filter((_, i) => i !== guard.line - 1).join('\n');
}

/** Blanks for comments, lines kept: the checker sees no comment at all. */
export function withoutComments(text) {
  return text.replace(/[ ]*\\\*.*$/gm, '');
}

function guardsOf(name, tla, invariants, problems) {
  const guards = [];
  tla.split('\n').forEach((text, i) => {
    if (!text.includes('@guard')) return;
    const found = GUARD.exec(text);
    const where = `${name}.tla:${i + 1}`;
    if (!found) {
      problems.push(`${where}: a guard is one line  /\\ FORMULA  \\* @guard name -> Invariant`);
    } else if (!invariants.includes(found[3])) {
      problems.push(`${where}: guard ${found[2]} names ${found[3]}, which is not an invariant`);
    } else if (guards.some((g) => g.name === found[2])) {
      problems.push(`${where}: there are two guards named ${found[2]}`);
    } else {
      guards.push({ name: found[2], invariant: found[3], line: i + 1 });
    }
  });
  if (!guards.length) problems.push(`${name}.tla: no line is marked \\* @guard name -> Invariant`);
  return guards;
}

function lint(kind, file, text) {
  const problems = [];
  const bare = withoutComments(text);
  const lines = bare.split('\n');
  for (const rule of RULES.filter((r) => r.in === kind)) {
    const hits = lines.flatMap((l, i) => (new RegExp(rule.forbid ?? rule.once).test(l) ? [i + 1] : []));
    const wrong = rule.once ? hits.slice(1) : hits;
    problems.push(...wrong.map((line) => `${file}:${line}: ${rule.why}`));
  }
  if (kind === 'tla') for (const [line, why] of captured(bare)) problems.push(`${file}:${line}: ${why}`);
  return problems;
}
