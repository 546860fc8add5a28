/**
 * Client of an Interlock service: many agents share state without destroying each other's work.
 *
 * Every write says which version it was computed from, and is refused with the fresh record where
 * that has changed.  A request whose answer was lost is sent again under the same operation id, so
 * it is applied once.
 */

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** A key as it was at one moment; `version` is 0 where it was never written. */
export interface KeyRecord<T = Json> {
  key: string;
  value: T | null;
  version: number;
  epoch: number;
  writer: string | null;
  at: string | null;
  exists: boolean;
}

/** One line of the space's log. */
export interface Entry<T = Json> {
  position: number;
  key: string;
  version: number;
  epoch: number;
  kind: "put" | "append" | "delete";
  value: T | null;
  agent: string;
  at: string;
  op_id: string;
}

/** What the service refused, or could not do; `name` is that of the exception in Python. */
export class InterlockError extends Error {
  constructor(
    readonly status: number,
    readonly problem: { [name: string]: any },
  ) {
    super(String(problem["detail"] ?? `HTTP status ${status}`));
    this.name = String(problem["title"] ?? "Unavailable");
  }

  /** Whether trying again may help. */
  get retryable(): boolean {
    return this.problem["retryable"] === true;
  }
}

/** Something that the write was computed from has changed: `record` is the fresh one. */
export class Conflict<T = Json> extends InterlockError {
  get record(): KeyRecord<T> {
    return this.problem["record"] as KeyRecord<T>;
  }
}

/** Another agent has the right to write now, for `seconds` at most unless it renews it. */
export class Held extends InterlockError {
  get holder(): string {
    return String(this.problem["holder"]);
  }

  get seconds(): number {
    return Number(this.problem["seconds"]);
  }
}

/** One write of a transaction. */
export type Change =
  | { kind: "create" | "append"; key: string; value: Json; expires?: number }
  | { kind: "put"; key: string; value: Json; version: number; epoch: number; expires?: number }
  | { kind: "delete"; key: string; version: number; epoch: number };

export interface Options {
  /** The token of `interlock tokens create`. */
  token?: string;
  /** Who writes, on a service without tokens. */
  agent?: string;
  /** Seconds in which a request is sent again where the service is away (10). */
  patience?: number;
  fetch?: typeof fetch;
}

interface Ask {
  body?: Json;
  headers?: { [name: string]: string };
  opId?: string;
  signal?: AbortSignal;
}

const LEASE_SECONDS = 30;
const LONGEST_WAIT = 20; // seconds in the queue, for each request
const PAUSE = 50; // milliseconds until a request is sent again
const LONGEST_PAUSE = 2000;
const AWAY = new Set([429, 502, 503]); // nothing was done, or the same operation may be sent again

/** A service at `url`, such as `http://127.0.0.1:8700`. */
export class Interlock {
  readonly #url: string;
  readonly #options: Options;

  constructor(url: string, options: Options = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#options = options;
  }

  /** Return a space, which must exist: see `create`. */
  space(name: string): Space {
    return new Space(this, `/v1/spaces/${encodeURIComponent(name)}`);
  }

  /** Make a space where there is none, and return it. */
  async create(name: string): Promise<Space> {
    await this.ask("PUT", `/v1/spaces/${encodeURIComponent(name)}`);
    return this.space(name);
  }

  /** Send one request, again where the service is away, and return its answer. */
  async ask(method: string, path: string, asked: Ask = {}): Promise<Response> {
    const ends = Date.now() + 1000 * (this.#options.patience ?? 10);
    const headers: { [name: string]: string } = { ...asked.headers };
    if (this.#options.token !== undefined) headers["Authorization"] = `Bearer ${this.#options.token}`;
    else if (this.#options.agent !== undefined) headers["Interlock-Agent"] = this.#options.agent;
    if (asked.opId !== undefined) headers["Idempotency-Key"] = asked.opId;
    const init: RequestInit = { method, headers };
    if (asked.signal !== undefined) init.signal = asked.signal;
    if (asked.body !== undefined) {
      headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(asked.body);
    }
    for (let pause = PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      const late = Date.now() + pause > ends;
      try {
        const answer = await (this.#options.fetch ?? fetch)(this.#url + path, init);
        if (answer.ok) return answer;
        if (!AWAY.has(answer.status) || late) throw await problemOf(answer);
        await answer.body?.cancel();
      } catch (problem) {
        if (problem instanceof InterlockError || asked.signal?.aborted || late) throw problem;
      }
      await sleep(pause * (0.5 + Math.random()));
    }
  }
}

/** Shared state of a group of agents. */
export class Space {
  readonly #service: Interlock;
  readonly #root: string;

  constructor(service: Interlock, root: string) {
    this.#service = service;
    this.#root = root;
  }

  /** Return the record of a key, or as it was at a position of the log. */
  async read<T = Json>(key: string, position?: number): Promise<KeyRecord<T>> {
    const at = position === undefined ? "" : `?position=${position}`;
    try {
      return (await this.#json("GET", `records/${path(key)}${at}`)) as KeyRecord<T>;
    } catch (problem) {
      if (!(problem instanceof InterlockError) || problem.name !== "NotFound") throw problem;
      const { version = 0, epoch = 0 } = problem.problem as { version?: number; epoch?: number };
      return { key, value: null, version, epoch, writer: null, at: null, exists: false };
    }
  }

  /** Write a key that must not exist.  Throws Conflict. */
  async create<T = Json>(key: string, value: T): Promise<KeyRecord<T>> {
    return this.#write(key, value, { "If-None-Match": "*" }, newOpId());
  }

  /** Write over a record that was read.  Throws Conflict, Held, ... */
  async write<T = Json>(record: KeyRecord<T>, value: T, opId = newOpId()): Promise<KeyRecord<T>> {
    return this.#write(record.key, value, { "If-Match": etag(record) }, opId);
  }

  /** Delete the key of a record that was read.  Throws Conflict. */
  async delete(record: KeyRecord<any>): Promise<KeyRecord> {
    const headers = { "If-Match": etag(record) };
    const asked = { headers, opId: newOpId() };
    return (await this.#json("DELETE", `records/${path(record.key)}`, asked)) as KeyRecord;
  }

  /**
   * Read a key, call `decide(value)`, and write what it returns: null for a key without a value.
   *
   * It is called again with the fresh value where somebody else was faster.  From then on the key's
   * lease keeps the others out, first come, first served, so that the second thought counts.
   */
  async update<T = Json>(
    key: string,
    decide: (value: T | null) => T | Promise<T>,
  ): Promise<KeyRecord<T>> {
    const record = await this.read<T>(key);
    try {
      return await this.write(record, await decide(record.value));
    } catch (problem) {
      if (!(problem instanceof Conflict || problem instanceof Held)) throw problem;
    }
    return this.lease<KeyRecord<T>, T>(key, async (lease) =>
      lease.write(await decide(lease.record.value)),
    );
  }

  /** Change fields of an object and no others (JSON Merge Patch). */
  async patch<T = Json>(target: string | KeyRecord<T>, changes: object): Promise<KeyRecord<T>> {
    return (await this.#change("PATCH", "records", target, changes as Json)) as KeyRecord<T>;
  }

  /** Move the state machine of a key.  Throws IllegalTransition. */
  async transition<T = Json>(
    target: string | KeyRecord<T>,
    to: string,
    changes: { [name: string]: Json } = {},
  ): Promise<KeyRecord<T>> {
    return (await this.#change("POST", "transition", target, { to, changes })) as KeyRecord<T>;
  }

  /** Add a contribution to a merged key; it never conflicts. */
  async append<T = Json>(key: string, item: T, id = newOpId()): Promise<Entry<T>> {
    const asked = { body: item as Json, opId: id };
    return (await this.#json("POST", `append/${path(key)}`, asked)) as Entry<T>;
  }

  /** Commit several writes, all or none, if nothing in `expect` has changed.  Throws Conflict. */
  async transact(writes: Change[], expect: KeyRecord<any>[] = []): Promise<{ position: number }> {
    const read = expect.map(({ key, version, epoch }) => ({ key, version, epoch }));
    const body = { writes, expect: read } as unknown as Json;
    return await this.#json("POST", "transactions", { body, opId: newOpId() });
  }

  /** Do long work on a key that nobody else writes meanwhile; the lease is renewed. */
  async lease<R, T = Json>(
    key: string,
    work: (lease: Lease<T>) => Promise<R>,
    seconds = LEASE_SECONDS,
  ): Promise<R> {
    const lease = new Lease<T>(this, await this.#taken<T>(key, seconds), seconds);
    try {
      return await work(lease);
    } finally {
      await lease.release();
    }
  }

  /** Return entries of the log after a position, all of them, a page at a time. */
  async *log<T = Json>(after = 0, prefix = ""): AsyncGenerator<Entry<T>> {
    for (;;) {
      const query = new URLSearchParams({ after: `${after}`, prefix });
      const page = await this.#json("GET", `log?${query}`);
      yield* page.entries as Entry<T>[];
      if (!page.more) return;
      after = page.next_after;
    }
  }

  /** Return entries as they are committed, without end; a lost connection loses none of them. */
  async *watch<T = Json>(
    prefix = "",
    after?: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Entry<T>> {
    let position = after ?? (await this.#json("GET", "")).position;
    while (!signal?.aborted) {
      try {
        const headers = { Accept: "text/event-stream", "Last-Event-ID": `${position}` };
        const asked = signal === undefined ? { headers } : { headers, signal };
        const query = new URLSearchParams({ prefix });
        const answer = await this.#service.ask("GET", `${this.#root}/watch?${query}`, asked);
        for await (const { event, data } of events(answer)) {
          if (event === "problem") throw new InterlockError(Number(data["status"]), data);
          position = data["position"];
          yield data as Entry<T>;
        }
      } catch (problem) {
        if (signal?.aborted) return;
        if (problem instanceof InterlockError && problem.status < 500) throw problem;
      }
      await sleep(PAUSE);
    }
  }

  /** For leases: a write under the lease, and its renewal and end. */
  async leased<T>(record: KeyRecord<T>, value: T): Promise<KeyRecord<T>> {
    const headers = { "If-Match": etag(record), "Interlock-Lease": `${record.epoch}` };
    return this.#write(record.key, value, headers, newOpId());
  }

  async renew(key: string, epoch: number, ttl: number): Promise<void> {
    await this.#json("PUT", `leases/${path(key)}`, { body: { epoch, ttl } });
  }

  async release(key: string, epoch: number): Promise<void> {
    await this.#service.ask("DELETE", `${this.#root}/leases/${path(key)}?epoch=${epoch}`);
  }

  async #taken<T>(key: string, ttl: number): Promise<KeyRecord<T>> {
    for (;;) {
      try {
        const asked = { body: { ttl, wait: LONGEST_WAIT }, opId: newOpId() };
        return (await this.#json("POST", `leases/${path(key)}`, asked)).record as KeyRecord<T>;
      } catch (problem) {
        if (!(problem instanceof Held)) throw problem;
      }
    }
  }

  async #write<T>(key: string, value: T, headers: { [name: string]: string }, opId: string) {
    const asked = { body: value as Json, headers, opId };
    return (await this.#json("PUT", `records/${path(key)}`, asked)) as KeyRecord<T>;
  }

  async #change(method: string, verb: string, target: string | KeyRecord<any>, body: Json) {
    const key = typeof target === "string" ? target : target.key;
    const headers: { [name: string]: string } =
      typeof target === "string" ? {} : { "If-Match": etag(target) };
    return this.#json(method, `${verb}/${path(key)}`, { body, headers, opId: newOpId() });
  }

  async #json(method: string, what: string, asked: Ask = {}): Promise<any> {
    const where = what === "" ? this.#root : `${this.#root}/${what}`;
    return (await this.#service.ask(method, where, asked)).json();
  }
}

/** The right to write one key, which is renewed until it is released. */
export class Lease<T = Json> {
  /** The record of the key, as it was at the grant or after the last `write`. */
  record: KeyRecord<T>;
  readonly #space: Space;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(space: Space, record: KeyRecord<T>, seconds: number) {
    this.#space = space;
    this.record = record;
    const renew = () => space.renew(record.key, record.epoch, seconds).catch(() => undefined);
    this.#timer = setInterval(renew, (seconds * 1000) / 3); // a write says where it was lost
  }

  /** Write the key.  Throws Fenced where the lease was taken away. */
  async write(value: T): Promise<KeyRecord<T>> {
    this.record = await this.#space.leased(this.record, value);
    return this.record;
  }

  /** Give it up; `Space.lease` does. */
  async release(): Promise<void> {
    clearInterval(this.#timer);
    await this.#space.release(this.record.key, this.record.epoch);
  }
}

/** Return an operation id: what is sent twice under the same one is applied once. */
export function newOpId(): string {
  return crypto.randomUUID();
}

function etag(record: KeyRecord<any>): string {
  return `"${record.version}.${record.epoch}"`;
}

function path(key: string): string {
  return key.split("/").map(encodeURIComponent).join("/");
}

async function problemOf(answer: Response): Promise<InterlockError> {
  const found = (await answer.json().catch(() => ({}))) as { [name: string]: any };
  if (found["title"] === "Conflict") return new Conflict(answer.status, found);
  if (found["title"] === "Held") return new Held(answer.status, found);
  return new InterlockError(answer.status, found);
}

async function* events(
  answer: Response,
): AsyncGenerator<{ event: string; data: { [name: string]: any } }> {
  if (answer.body === null) return;
  let rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop() ?? "";
      for (const part of parts) {
        const fields = new Map(
          part.split("\n").map((line): [string, string] => {
            const [name = "", ...text] = line.split(": ");
            return [name, text.join(": ")];
          }),
        );
        const data = fields.get("data");
        if (data !== undefined) yield { event: fields.get("event") ?? "", data: JSON.parse(data) };
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
