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
