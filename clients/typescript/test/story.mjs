// Run by tests/server/test_typescript.py: node story.mjs URL TOKEN AGENTS.  Prints what it found.
import { Conflict, Interlock, InterlockError } from "../dist/interlock.js";

const [url, token, agents] = process.argv.slice(2);
const service = new Interlock(url, { token });
const space = await service.create("story");
const found = {};

// Everybody reads the same plan, thinks, and writes: nobody's line is lost.
let thoughts = 0;
const others = Array.from({ length: Number(agents) }, (_, n) => n);
await Promise.all(
  others.map((n) =>
    space.update("plan", async (value) => {
      thoughts += 1;
      await new Promise((resolve) => setTimeout(resolve, 1));
      return [...(value ?? []), n];
    }),
  ),
);
const plan = await space.read("plan");
found.kept = new Set(plan.value).size;
found.lines = plan.value.length;
found.thoughts = thoughts;

// A write from an old version, and what is there now.
const first = await space.create("k/ä b", { n: 1 });
await space.write(first, { n: 2 });
try {
  await space.write(first, { n: 3 });
} catch (problem) {
  found.conflict = [problem instanceof Conflict, problem.name, problem.record.value.n];
}
const again = await space.read("k/ä b");
found.same = (await space.write(again, { n: 4 }, "once")).version;
found.replayed = (await space.write(again, { n: 4 }, "once")).version;
found.patched = (await space.patch("k/ä b", { m: 1 })).value;
found.was = (await space.read("k/ä b", first.version && plan.version + 1)).value;
found.absent = (await space.read("nothing")).exists;

// Two keys in one commit, and one that has moved.
const a = await space.create("a", 1);
await space.transact([
  { kind: "put", key: "a", value: 2, version: a.version, epoch: a.epoch },
  { kind: "create", key: "b", value: 1 },
]);
found.moved = await space
  .transact([{ kind: "create", key: "c", value: 1 }], [a])
  .catch((problem) => problem.name);

// What was committed, and what comes.
found.log = [];
for await (const entry of space.log(plan.version)) found.log.push(entry.key);
const stop = new AbortController();
const watching = space.watch("later", undefined, stop.signal);
const next = watching.next();
setTimeout(() => space.create("later", 1), 50);
found.watched = (await next).value.key;
stop.abort();
await watching.return();

found.refused = await new Interlock(url, { token: "wrong" })
  .space("story")
  .read("a")
  .catch((problem) => problem instanceof InterlockError && problem.name);
console.log(JSON.stringify(found));
