// Calls that tla-checker 0.9.0 gets wrong.  It replaces the parameters of an operator one after the
// other, so that in  Less(a, b) == a < b  the call  Less(b, a)  becomes  b < b, then  a < a.  A call
// is safe where no argument mentions the name of another parameter that stands for something else.

/** Yields [line, sentence] of each such call; `text` has no comments. */
export function* captured(text) {
  for (const [, name, list] of text.matchAll(/^(\w+)\((\w+(?:, *\w+)+)\) *==/gm)) {
    const parameters = list.split(',').map((p) => p.trim());
    for (const call of text.matchAll(new RegExp(`\\b${name}\\(`, 'g'))) {
      const values = argumentsAt(text, call.index + call[0].length);
      const clash = values && clashing(parameters, values);
      const line = text.slice(0, call.index).split('\n').length;
      if (clash) yield [line, `${name}(${values.join(', ')}) is misread: rename ${clash}`];
    }
  }
}

function clashing(parameters, values) {
  return parameters.find((parameter, j) => values[j] !== parameter && values.some(
    (value, i) => i !== j && new RegExp(`\\b${parameter}\\b`).test(value.replace(/"[^"]*"/g, ''))));
}

function argumentsAt(text, start) {
  const values = [];
  let depth = 0;
  let from = start;
  for (let i = start; i < text.length; i++) {
    if ('([{'.includes(text[i]) || text.startsWith('<<', i)) depth++;
    if (depth === 0 && (text[i] === ',' || text[i] === ')')) {
      values.push(text.slice(from, i).trim().replace(/\s+/g, ' '));
      from = i + 1;
      if (text[i] === ')') return values;
    } else if (')]}'.includes(text[i]) || text.startsWith('>>', i)) {
      depth--;
    }
    if (text.startsWith('<<', i) || text.startsWith('>>', i)) i++;
  }
  return null;
}
