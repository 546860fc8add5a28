"""Read, change, write: each function is marked `# racy` or `# safe`."""

import asyncio
import fcntl
import json
import pickle
import sqlite3
import threading
from pathlib import Path

import redis
from django.db.models import F
from filelock import FileLock
from pymongo import MongoClient
from sqlalchemy import Column, Integer, String, select, update

r = redis.Redis()
db = MongoClient().app
STATE = Path("state.json")
lock = threading.Lock()


class Base: ...


class Account(Base):
    __tablename__ = "accounts"
    id = Column(Integer, primary_key=True)
    balance = Column(Integer)
    data = Column(String)
    version = Column(Integer)


class Order(Base):
    __tablename__ = "orders"
    id = Column(Integer, primary_key=True)
    total = Column(Integer)
    version_id = Column(Integer)
    __mapper_args__ = {"version_id_col": version_id}


def redis_json(uid, name):  # racy
    profile = json.loads(r.get(f"user:{uid}") or "{}")
    profile["name"] = name
    r.set(f"user:{uid}", json.dumps(profile))


def redis_hash_field(job):  # racy
    tries = int(r.hget(f"job:{job}", "tries") or 0)
    r.hset(f"job:{job}", "tries", tries + 1)


async def redis_with_model(redis_client, llm, uid):  # racy
    memory = await redis_client.get(f"memory:{uid}")
    better = await llm.ainvoke(f"Improve: {memory}")
    await redis_client.setex(f"memory:{uid}", 3600, better.content)


def sql_balance(conn: sqlite3.Connection, account, amount):  # racy
    row = conn.execute("SELECT balance FROM accounts WHERE id = ?", (account,)).fetchone()
    conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (row[0] + amount, account))
    conn.commit()


async def asyncpg_json(pool, key, patch):  # racy
    async with pool.acquire() as conn:
        value = await conn.fetchval("SELECT value FROM kv WHERE key = $1", key)
        merged = {**json.loads(value), **patch}
        await conn.execute("UPDATE kv SET value = $1 WHERE key = $2", json.dumps(merged), key)


def orm_counter(session, account_id, amount):  # racy
    account = session.get(Account, account_id)
    account.balance += amount
    session.commit()


async def orm_select(session, account_id, patch):  # racy
    result = await session.execute(select(Account).where(Account.id == account_id))
    account = result.scalar_one_or_none()
    account.data = {**account.data, **patch}
    await session.commit()


def mongo_replace(uid, key, value):  # racy
    doc = db.users.find_one({"_id": uid})
    doc["settings"][key] = value
    db.users.replace_one({"_id": uid}, doc)


def mongo_set_counter(uid):  # racy
    doc = db.users.find_one({"_id": uid})
    db.users.update_one({"_id": uid}, {"$set": {"visits": doc["visits"] + 1}})


class FileStore:
    def __init__(self, path: str):
        self.path = Path(path)

    def _load(self):
        if not self.path.exists():
            return {}
        return json.loads(self.path.read_text())

    def _save(self, data):
        tmp = self.path.with_suffix(".tmp")
        tmp.write_text(json.dumps(data))
        tmp.replace(self.path)

    def put(self, key, value):  # racy
        data = self._load()
        data[key] = value
        self._save(data)

    def put_locked(self, key, value):  # safe
        with FileLock(f"{self.path}.lock"):
            data = self._load()
            data[key] = value
            self._save(data)


class Counter:
    def __init__(self):
        self.total = 0
        self._lock = asyncio.Lock()

    async def add(self, model, text):  # racy
        total = self.total
        usage = await model.count(text)
        self.total = total + usage

    async def add_after(self, model, text):  # safe
        usage = await model.count(text)
        self.total = self.total + usage

    async def add_locked(self, model, text):  # safe
        async with self._lock:
            total = self.total
            self.total = total + await model.count(text)


async def store_abstraction(session_service, session_id, event):  # racy
    session = await session_service.get_session(session_id)
    session.state.update(event.delta)
    await session_service.update_session(session)


async def langgraph_store(store, user_id, llm):  # racy
    item = await store.aget(("memory", user_id), "profile")
    profile = await llm.ainvoke(item.value)
    await store.aput(("memory", user_id), "profile", profile)


def pickled(path, key, value):  # racy
    with open(path, "rb") as f:
        state = pickle.load(f)
    state[key] = value
    with open(path, "wb") as f:
        pickle.dump(state, f)


def drained(queue):  # racy
    items = r.lrange(f"queue:{queue}", 0, -1)
    r.delete(f"queue:{queue}")
    return items


# What looks like it and is not.


def redis_lock(uid, name):  # safe
    with r.lock(f"lock:{uid}"):
        profile = json.loads(r.get(f"user:{uid}") or "{}")
        profile["name"] = name
        r.set(f"user:{uid}", json.dumps(profile))


def redis_incr(job):  # safe
    tries = r.hincrby(f"job:{job}", "tries", 1)
    r.hset(f"job:{job}", "last", "now")
    return tries


def redis_watch(uid, name):  # safe
    with r.pipeline() as pipe:
        while True:
            try:
                pipe.watch(f"user:{uid}")
                profile = json.loads(pipe.get(f"user:{uid}") or "{}")
                profile["name"] = name
                pipe.multi()
                pipe.set(f"user:{uid}", json.dumps(profile))
                pipe.execute()
                return
            except redis.WatchError:
                continue


def redis_transaction(uid):  # safe
    def change(pipe):
        value = int(pipe.get(f"n:{uid}"))
        pipe.multi()
        pipe.set(f"n:{uid}", value + 1)

    r.transaction(change, f"n:{uid}")


def redis_script(uid, name):  # safe
    old = r.get(f"user:{uid}")
    r.eval("if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('set', KEYS[1], ARGV[2]) end", 1, f"user:{uid}", old, name)


def redis_other_key(uid):  # safe
    value = r.get(f"draft:{uid}")
    r.set(f"published:{uid}", value)


def cache_aside(uid, load):  # safe
    cached = r.get(f"cache:{uid}")
    if cached is not None:
        return json.loads(cached)
    value = load(uid)
    r.set(f"cache:{uid}", json.dumps(value), ex=60)
    return value


def cache_fill(uid, load):  # safe
    value = r.get(f"cache:{uid}")
    if value is None:
        value = load(uid)
        r.set(f"cache:{uid}", value)
    return value


def sql_relative(conn, account, amount):  # safe
    conn.execute("SELECT balance FROM accounts WHERE id = ?", (account,)).fetchone()
    conn.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, account))


def sql_version(conn, account, amount):  # safe
    balance, version = conn.execute("SELECT balance, version FROM accounts WHERE id = ?", (account,)).fetchone()
    done = conn.execute(
        "UPDATE accounts SET balance = ?, version = version + 1 WHERE id = ? AND version = ?",
        (balance + amount, account, version),
    )
    if done.rowcount == 0:
        raise RuntimeError("conflict")


def sql_for_update(cursor, account, amount):  # safe
    cursor.execute("SELECT balance FROM accounts WHERE id = %s FOR UPDATE", (account,))
    (balance,) = cursor.fetchone()
    cursor.execute("UPDATE accounts SET balance = %s WHERE id = %s", (balance + amount, account))


def sql_immediate(conn, account, amount):  # safe
    conn.execute("BEGIN IMMEDIATE")
    row = conn.execute("SELECT balance FROM accounts WHERE id = ?", (account,)).fetchone()
    conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (row[0] + amount, account))
    conn.commit()


def sql_other_row(conn, one, other):  # safe
    row = conn.execute("SELECT balance FROM accounts WHERE id = ?", (one,)).fetchone()
    conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (row[0], other))


def orm_for_update(session, account_id, amount):  # safe
    account = session.query(Account).filter(Account.id == account_id).with_for_update().one()
    account.balance += amount
    session.commit()


def orm_versioned(session, order_id, amount):  # safe
    order = session.get(Order, order_id)
    order.total += amount
    session.commit()


def orm_expression(session, account_id, amount):  # safe
    session.execute(update(Account).where(Account.id == account_id).values(balance=Account.balance + amount))


def django_f(pk):  # safe
    account = Account.objects.get(pk=pk)
    account.balance = F("balance") + 1
    account.save()


def orm_set(session, account_id, name):  # safe
    account = session.get(Account, account_id)
    account.data = name
    session.commit()


def mongo_operators(uid):  # safe
    doc = db.users.find_one({"_id": uid})
    db.users.update_one({"_id": uid}, {"$inc": {"visits": 1}, "$push": {"log": doc["name"]}})


def mongo_version(uid, name):  # safe
    doc = db.users.find_one({"_id": uid})
    doc["name"] = name
    db.users.replace_one({"_id": uid, "version": doc["version"]}, doc)


def s3_if_match(s3_client, bucket, key, line):  # safe
    import boto3  # noqa: F401

    got = s3_client.get_object(Bucket=bucket, Key=key)
    body = got["Body"].read() + line
    s3_client.put_object(Bucket=bucket, Key=key, Body=body, IfMatch=got["ETag"])


def store_version(store, key, change):  # safe
    record = store.get(key)
    store.put(key, change(record.value), expected_version=record.version)


def file_append(path, line):  # safe
    with open(path) as f:
        known = f.read()
    if line not in known:
        with open(path, "a") as f:
            f.write(line)


def file_flock(path, key, value):  # safe
    with open(path, "r+") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        data = json.load(f)
        data[key] = value
        f.seek(0)
        json.dump(data, f)


def other_file(source, target):  # safe
    data = json.loads(Path(source).read_text())
    Path(target).write_text(json.dumps(data))


# Kept copies: loaded once, changed, saved whole.


class KeptNotes:
    def __init__(self, path):
        self.path = Path(path)
        self.notes = json.loads(self.path.read_text()) if self.path.exists() else {}

    def kept_copy(self, name, text):  # racy
        self.notes[name] = text
        self.kept_copy_saves()

    def kept_copy_in_an_entry(self, name):  # racy
        note = self.notes.get(name)
        note["seen"] = True
        self.kept_copy_saves()

    def kept_copy_saves(self):  # safe
        self.path.write_text(json.dumps({name: note for name, note in self.notes.items()}))


class KeptDocument:
    def __init__(self, document, session):
        self._document = document
        self.session = session
        self.messages = []
        self._fetch_messages()

    def _fetch_messages(self):
        found = self._document.get()
        self.messages = found.to_dict()["messages"]

    def kept_document(self, message):  # racy
        self.messages.append(message)
        self._document.set({"id": self.session, "messages": self.messages})


class KeptGraph:
    def __post_init__(self):
        self._graph = load_graph(self.file_name)

    def put_node(self, node):
        self._graph.add_node(node)

    def kept_until_a_callback(self):  # racy
        write_graph(self._graph, self.file_name)


class ReloadedNotes:
    def __init__(self, path):
        self.path = Path(path)
        self.notes = {}
        self._again()

    def _again(self):
        self.notes = json.loads(self.path.read_text())

    def reloaded_under_a_lock(self, name, text):  # safe
        with FileLock("notes.lock"):
            self._again()
            self.notes[name] = text
            self.path.write_text(json.dumps(self.notes))


class ReloadedEntries:
    def __init__(self, store):
        self._store = store
        self._again()

    def _again(self):
        self.entries = {each["id"]: each for each in self._store.load_all()}

    def reloaded_without_a_lock(self, entry):  # racy
        self._again()
        self.entries[entry["id"]] = entry
        self._store.save_all(list(self.entries.values()))

    def entered(self, entry):
        with self.mutex:
            self._under_the_lock_of_its_callers(entry)

    def _under_the_lock_of_its_callers(self, entry):  # safe
        self.entries[entry["id"]] = entry
        self._store.save_all(list(self.entries.values()))


class OwnedNotes:
    def __init__(self, path):
        self.path = Path(path)
        self.notes = json.loads(self.path.read_text())
        self.mutex = threading.Lock()

    def one_owner_under_a_lock(self, name, text):  # safe
        with self.mutex:
            self.notes[name] = text
            self.path.write_text(json.dumps(self.notes))

    def one_record_a_file(self, name):  # safe
        entry = self.notes[name]
        Path(f"notes/{name}").write_text(json.dumps(entry))


class AppConfig:
    def __init__(self, path):
        self.path = Path(path)
        self.values = json.loads(self.path.read_text())

    def settings_of_one_person(self, name, value):  # safe
        self.values[name] = value
        self.path.write_text(json.dumps(self.values))


# Rows that save() writes.


def django_save_counter(pk):  # racy
    wallet = Wallet.objects.get(pk=pk)
    wallet.balance -= 1
    wallet.save()


def django_json_column(pk, key, value):  # racy
    note = Note.objects.get(pk=pk)
    note.data[key] = value
    note.save()


async def django_whole_row_after_a_model(pk, llm):  # racy
    chat = await Chat.objects.aget(pk=pk)
    title = await llm.ainvoke(f"Title for {pk}")
    chat.title = title
    await chat.asave()


async def django_one_column_after_a_model(pk, llm):  # safe
    chat = await Chat.objects.aget(pk=pk)
    title = await llm.ainvoke(f"Title for {pk}")
    chat.title = title
    await chat.asave(update_fields=["title"])


def django_locked_list(pk, tag):  # safe
    note = Note.objects.select_for_update().get(pk=pk)
    note.tags.append(tag)
    note.save()


def django_changed_and_not_saved(pk):  # safe
    note = Note.objects.get(pk=pk)
    note.tags.append("shown")
    note.views = note.views + 1
    return render(note)


# Calls that a thread makes, keys that are in what was read.


async def file_in_a_thread(name, text):  # racy
    notes = json.loads(await asyncio.to_thread(STATE.read_text))
    notes[name] = text
    await asyncio.to_thread(STATE.write_text, json.dumps(notes))


async def file_in_a_thread_locked(name, text):  # safe
    async with FileLock("state.lock"):
        notes = json.loads(await asyncio.to_thread(STATE.read_text))
        notes[name] = text
        await asyncio.to_thread(STATE.write_text, json.dumps(notes))


def key_in_what_was_read(ticket_id):  # racy
    ticket = json.loads(r.get(ticket_id))
    ticket["tries"] += 1
    r.set(ticket["id"], json.dumps(ticket))


class Tickets:
    def __init__(self):
        self.red = redis.StrictRedis()

    def client_under_any_name(self, name):  # racy
        done = int(self.red.get(name) or 0)
        self.red.set(name, done + 1)


def cached_answer(db, llm, prompt):  # safe
    row = db.execute("SELECT value FROM cache WHERE key = ?", (prompt,)).fetchone()
    value = llm.complete(f"{prompt} {row}")
    db.execute("INSERT OR REPLACE INTO cache (key, value) VALUES (?, ?)", (prompt, value))


async def get_balance(member):
    return await config.member(member).balance()


async def set_balance(member, amount):
    await config.member(member).balance.put(amount)
    return amount


async def get_and_set_of_a_framework(member, amount):  # racy
    balance = await get_balance(member)
    return await set_balance(member, balance - amount)


async def set_without_a_get(member, amount):  # safe
    return await set_balance(member, amount * 2)


async def get_and_set_under_a_lock(member, amount):  # safe
    async with asyncio.Lock():
        balance = await get_balance(member)
        return await set_balance(member, balance - amount)


def refreshed_token(creds):  # safe
    token = json.loads(Path("token.json").read_text())
    token["access"] = creds.refresh(token)
    Path("token.json").write_text(json.dumps(token))


async def orm_selected_column(session, key, tag):  # racy
    row = (await session.execute(select(Account.data).filter_by(id=key))).one_or_none()
    data = row[0] or {}
    await session.execute(update(Account).filter_by(id=key).values(data={**data, "tag": tag}))
    await session.commit()


async def orm_selected_column_locked(session, key, tag):  # safe
    chosen = select(Account.data).filter_by(id=key).with_for_update()
    data = (await session.execute(chosen)).scalar_one()
    await session.execute(update(Account).filter_by(id=key).values(data={**data, "tag": tag}))
    await session.commit()


async def orm_other_column(session, key):  # safe
    row = (await session.execute(select(Account.balance).filter_by(id=key))).one()
    await session.execute(update(Account).filter_by(id=key).values(data=str(row[0])))
    await session.commit()


class Coupon(models.Model):
    used = models.IntegerField()
    state = models.CharField()

    def own_counter(self):  # racy
        self.used += 1
        self.save()

    def own_counter_in_the_database(self):  # safe
        self.used = F("used") + 1
        self.save()

    def own_new_value(self, state):  # safe
        self.state = state
        self.save()


async def columns_put_together(db, thread, metadata):  # racy
    rows = await db.execute_query("SELECT metadata FROM threads WHERE id = $1", {"id": thread})
    base = json.loads(rows[0]["metadata"])
    data = {"id": thread, "metadata": json.dumps({**base, **metadata})}
    columns = ", ".join(data)
    marks = ", ".join(f"${at}" for at, _ in enumerate(data, 1))
    query = f"INSERT INTO threads ({columns}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {columns}"
    await db.execute_query(query, list(data.values()))


async def columns_put_together_of_what_is_given(db, thread, metadata):  # safe
    rows = await db.execute_query("SELECT owner FROM threads WHERE id = $1", {"id": thread})
    if not rows:
        raise KeyError(thread)
    data = {"id": thread, "metadata": json.dumps(metadata)}
    columns = ", ".join(data)
    query = f"INSERT INTO threads ({columns}) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET {columns}"
    await db.execute_query(query, list(data.values()))


def one_of_two_statements(conn, key, value, both):  # racy
    row = conn.execute("SELECT n FROM counts WHERE id = ?", (key,)).fetchone()
    if both:
        statement = "UPDATE counts SET n = ? WHERE id = ?"
    else:
        statement = "UPDATE counts SET n = ?, seen = 1 WHERE id = ?"
    conn.execute(statement, (row[0] + value, key))
