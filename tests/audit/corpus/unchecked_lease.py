"""Locks and leases whose token is not compared."""

import json
import uuid

import redis
from django.core.cache import cache

r = redis.Redis()
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end"


def constant_token(name, work):  # racy
    if not r.set(f"lock:{name}", "1", nx=True, ex=30):
        return
    try:
        work()
    finally:
        r.delete(f"lock:{name}")


def token_not_compared(name, work):  # racy
    token = str(uuid.uuid4())
    if r.set(f"lock:{name}", token, nx=True, px=30000):
        work()
        r.delete(f"lock:{name}")


def compared_in_two_steps(name, work):  # racy
    token = str(uuid.uuid4())
    if r.set(f"lock:{name}", token, nx=True, ex=30):
        work()
        if r.get(f"lock:{name}") == token:
            r.delete(f"lock:{name}")


async def asynchronous(redis_client, name, work):  # racy
    if await redis_client.set(f"lease:{name}", "me", nx=True, ex=10):
        await work()
        await redis_client.delete(f"lease:{name}")


class Lock:
    def __init__(self, client: redis.Redis, key):
        self.client = client
        self.key = key

    def acquire(self, token):
        return self.client.set(self.key, token, nx=True, ex=30)

    def release(self):  # racy
        self.client.delete(self.key)


def django(name, work):  # racy
    if cache.add(f"lock-{name}", "1", 60):
        work()
        cache.delete(f"lock-{name}")


def model_under_lock(llm, key):  # racy
    with r.lock(f"lock:{key}", timeout=10):
        value = r.get(key)
        r.set(key, llm.invoke(value))


async def await_under_lock(redis_client, llm, key):  # racy
    async with redis_client.lock(f"lock:{key}", timeout=5):
        value = await redis_client.get(key)
        better = await llm.ainvoke(value)
        await redis_client.set(key, better)


def request_under_lock(key):  # racy
    import requests

    with r.lock("sync", timeout=15):
        answer = requests.get("http://localhost/slow")
        r.set(key, answer.text)


def no_wait(name, work):  # racy
    lock_key = f"lock:{name}"
    got = r.set(lock_key, "locked", nx=True, ex=60)
    if not got:
        raise RuntimeError("busy")
    work()
    r.delete(lock_key)


# What looks like it and is not.


def script_compares(name, work):  # safe
    token = str(uuid.uuid4())
    if r.set(f"lock:{name}", token, nx=True, ex=30):
        work()
        r.eval(RELEASE, 1, f"lock:{name}", token)


def library_lock(key, value):  # safe
    with r.lock(f"lock:{key}", timeout=10):
        old = json.loads(r.get(key))
        r.set(key, json.dumps({**old, **value}))


def no_expiry(name, work):  # safe
    if r.set(f"lock:{name}", "1", nx=True):
        work()
        r.delete(f"lock:{name}")


def model_without_limit(llm, key):  # safe
    with r.lock(f"lock:{key}"):
        value = r.get(key)
        r.set(key, llm.invoke(value))


def model_before_lock(llm, key, text):  # safe
    answer = llm.invoke(text)
    with r.lock(f"lock:{key}", timeout=10):
        r.set(key, answer)


def no_write_under_lock(llm, key):  # safe
    with r.lock(f"lock:{key}", timeout=10):
        return llm.invoke(r.get(key))


def left_to_expire(name, work):  # safe
    if r.set(f"seen:{name}", "1", nx=True, ex=3600):
        work()


def delete_of_data(name):  # safe
    r.delete(f"user:{name}")


def once_marker(name, work):  # safe
    if r.setnx(f"setup:{name}", "1"):
        work()


class Compared:
    def __init__(self, client: redis.Redis, key, token):
        self.client, self.key, self.token = client, key, token

    def take(self):
        return self.client.set(self.key, self.token, nx=True, ex=30)

    def give_back(self):  # safe
        self.client.eval(RELEASE, 1, self.key, self.token)


def thread_lock(lock, llm, key):  # safe
    with lock:
        r.set(key, llm.invoke(r.get(key)))
