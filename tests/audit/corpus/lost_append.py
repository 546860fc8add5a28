"""Append by get and set."""

import json
import threading
from pathlib import Path

import redis

r = redis.Redis(decode_responses=True)
HISTORY = "history.json"
lock = threading.Lock()


def chat_history(session_id, message):  # racy
    raw = r.get(f"chat:{session_id}")
    messages = json.loads(raw) if raw else []
    messages.append(message)
    r.set(f"chat:{session_id}", json.dumps(messages))


def extended(session_id, new):  # racy
    messages = json.loads(r.get(session_id) or "[]")
    messages.extend(new)
    r.setex(session_id, 3600, json.dumps(messages))


def concatenated(key, item):  # racy
    items = json.loads(r.get(key) or "[]")
    r.set(key, json.dumps(items + [item]))


def unpacked(key, item):  # racy
    items = json.loads(r.get(key) or "[]")
    r.set(key, json.dumps([*items, item]))


async def asynchronous(redis_client, key, item):  # racy
    items = json.loads(await redis_client.get(key) or "[]")
    items.append(item)
    await redis_client.set(key, json.dumps(items))


def to_file(entry):  # racy
    threading.current_thread()
    entries = json.loads(Path(HISTORY).read_text())
    entries.append(entry)
    Path(HISTORY).write_text(json.dumps(entries))


def hash_field(user, tag):  # racy
    tags = json.loads(r.hget(f"user:{user}", "tags") or "[]")
    tags.append(tag)
    r.hset(f"user:{user}", "tags", json.dumps(tags))


class Memory:
    def __init__(self, client: redis.Redis, key):
        self.client = client
        self.key = key

    def load(self):
        raw = self.client.get(self.key)
        return json.loads(raw) if raw else []

    def save(self, messages):
        self.client.set(self.key, json.dumps(messages))

    def add(self, message):  # racy
        messages = self.load()
        messages.append(message)
        self.save(messages)

    def add_one(self, message):  # safe
        self.client.rpush(self.key, json.dumps(message))

    def add_locked(self, message):  # safe
        with self.client.lock(f"{self.key}:lock"):
            messages = self.load()
            messages.append(message)
            self.save(messages)


def in_table(cursor, key, item):  # racy
    cursor.execute("SELECT items FROM lists WHERE key = %s", (key,))
    items = json.loads(cursor.fetchone()[0])
    items.append(item)
    cursor.execute("UPDATE lists SET items = %s WHERE key = %s", (json.dumps(items), key))


async def framework_store(store, namespace, fact):  # racy
    item = await store.aget(namespace, "facts")
    facts = item.value["facts"]
    facts.append(fact)
    await store.aput(namespace, "facts", {"facts": facts})


def abstract_storage(storage, thread_id, message):  # racy
    history = storage.load(thread_id)
    history.append(message)
    storage.save(thread_id, history)


# What looks like it and is not.


def pushed(session_id, message):  # safe
    r.rpush(f"chat:{session_id}", json.dumps(message))
    r.ltrim(f"chat:{session_id}", -100, -1)


def streamed(session_id, message):  # safe
    last = r.xrevrange(f"chat:{session_id}", count=1)
    r.xadd(f"chat:{session_id}", {"message": message, "after": str(last)})


def added(key, member):  # safe
    known = r.smembers(key)
    r.sadd(key, f"{len(known)}:{member}")


def concatenated_text(key, text):  # safe
    r.append(key, text)


def in_list_only(session_id, message):  # safe
    messages = json.loads(r.get(f"chat:{session_id}") or "[]")
    messages.append(message)
    return messages


def other_session(one, other, message):  # safe
    messages = json.loads(r.get(f"chat:{one}") or "[]")
    messages.append(message)
    r.set(f"chat:{other}:copy", json.dumps(messages))


def guarded_by_lock(entry):  # safe
    with lock:
        entries = json.loads(Path(HISTORY).read_text())
        entries.append(entry)
        Path(HISTORY).write_text(json.dumps(entries))


def jsonl(entry):  # safe
    with open(HISTORY, "a") as f:
        f.write(json.dumps(entry) + "\n")


def in_sql(cursor, key, item):  # safe
    cursor.execute("UPDATE lists SET items = items || %s WHERE key = %s", (item, key))


def row_each(cursor, key, item):  # safe
    cursor.execute("SELECT count(*) FROM items WHERE key = %s", (key,))
    cursor.execute("INSERT INTO items (key, item) VALUES (%s, %s)", (key, item))


def store_append(storage, thread_id, message):  # safe
    history = storage.load(thread_id)
    storage.append(thread_id, message)
    return history


def local_list(messages, message):  # safe
    messages = list(messages)
    messages.append(message)
    return messages


class KeptLazily:
    def __init__(self, path):
        self.path = path
        self.items = None

    def _ready(self):
        if self.items is None:
            with open(self.path, "rb") as file:
                self.items = pickle.load(file)

    def kept_lazily(self, item):  # racy
        self._ready()
        self.items.append(item)
        with open(self.path, "wb") as file:
            pickle.dump(self.items, file)


async def django_async_list(pk, tag):  # racy
    note = await Note.objects.filter(pk=pk).afirst()
    note.tags.append(tag)
    await note.asave()


class AgentManager:
    def get_agent(self, agent_id):
        return self.repository_of_somebody_else(agent_id)

    def set_messages(self, agent_id, messages):
        self.update(agent_id, messages)
        self.session.commit()

    def managed_append(self, agent_id, message):  # racy
        agent = self.get_agent(agent_id=agent_id)
        messages = agent.messages or []
        messages += [message]
        return self.set_messages(agent_id=agent_id, messages=messages)

    def managed_append_under_a_lock(self, agent_id, message):  # safe
        with self.lock:
            agent = self.get_agent(agent_id=agent_id)
            return self.set_messages(agent_id=agent_id, messages=[*agent.messages, message])

    def managed_for_another(self, agent_id, other_id, message):  # safe
        agent = self.get_agent(agent_id=agent_id)
        return self.set_messages(agent_id=other_id, messages=[*agent.messages, message])
