"""Retry of a conflict with old data."""

import json

import redis
from tenacity import retry

r = redis.Redis()


class ConflictError(Exception): ...


def watch_outside(key):  # racy
    value = int(r.get(key) or 0)
    with r.pipeline() as pipe:
        while True:
            try:
                pipe.watch(key)
                pipe.multi()
                pipe.set(key, value + 1)
                pipe.execute()
                return
            except redis.WatchError:
                continue


def read_before_watch(key, item):  # racy
    data = json.loads(r.get(key))
    data["item"] = item
    with r.pipeline() as pipe:
        pipe.watch(key)
        pipe.multi()
        pipe.set(key, json.dumps(data))
        pipe.execute()


def version_reread(store, key, change):  # racy
    record = store.get(key)
    value = change(record.value)
    version = record.version
    while True:
        try:
            return store.put(key, value, expected_version=version)
        except ConflictError:
            version = store.get(key).version


def forced(store, key, change):  # racy
    record = store.get(key)
    value = change(record)
    try:
        store.put(key, value, expected_version=record.version)
    except ConflictError:
        store.put(key, value)


def attempts(store, key, patch):  # racy
    document = store.load(key)
    document.update(patch)
    for attempt in range(5):
        try:
            store.save(key, document, if_match=document.etag)
            break
        except ConflictError:
            document.etag = store.load(key).etag


async def async_watch(redis_client, key, llm):  # racy
    old = await redis_client.get(key)
    new = await llm.ainvoke(old)
    async with redis_client.pipeline() as pipe:
        while True:
            try:
                await pipe.watch(key)
                pipe.multi()
                pipe.set(key, new)
                await pipe.execute()
                break
            except redis.WatchError:
                continue


async def revision_loop(doc_store, doc_id, text):  # racy
    doc = await doc_store.fetch(doc_id)
    body = doc.body + text
    revision = doc.revision
    for _attempt in range(3):
        try:
            await doc_store.update(doc_id, body, revision=revision)
            return
        except ConflictError:
            revision = (await doc_store.fetch(doc_id)).revision


def etag_loop(blob_store, name, change):  # racy
    current = blob_store.read(name)
    content = change(current)
    etag = current.etag
    while True:
        try:
            blob_store.write(name, content, etag=etag)
            return
        except ConflictError:
            etag = blob_store.read(name).etag


def hash_watch(task, agent):  # racy
    owner = r.hget(f"task:{task}", "log")
    log = f"{owner},{agent}"
    with r.pipeline() as pipe:
        while True:
            try:
                pipe.watch(f"task:{task}")
                pipe.multi()
                pipe.hset(f"task:{task}", "log", log)
                pipe.execute()
                break
            except redis.WatchError:
                continue


def handler_overwrites(repo, order_id, total):  # racy
    order = repo.get_order(order_id)
    order.total = total + order.total
    try:
        repo.update_order(order, version=order.version)
    except ConflictError:
        repo.save_order(order)


# What looks like it and is not.


def watch_inside(key):  # safe
    with r.pipeline() as pipe:
        while True:
            try:
                pipe.watch(key)
                value = int(pipe.get(key) or 0)
                pipe.multi()
                pipe.set(key, value + 1)
                pipe.execute()
                return
            except redis.WatchError:
                continue


def version_inside(store, key, change):  # safe
    while True:
        record = store.get(key)
        try:
            return store.put(key, change(record.value), expected_version=record.version)
        except ConflictError:
            continue


def attempts_inside(store, key, patch):  # safe
    for attempt in range(5):
        document = store.load(key)
        document.update(patch)
        try:
            store.save(key, document, if_match=document.etag)
            break
        except ConflictError:
            continue


def gives_up(store, key, change):  # safe
    record = store.get(key)
    try:
        store.put(key, change(record.value), expected_version=record.version)
    except ConflictError:
        raise RuntimeError("somebody else wrote") from None


def recomputes_in_handler(store, key, change):  # safe
    record = store.get(key)
    try:
        store.put(key, change(record.value), expected_version=record.version)
    except ConflictError:
        record = store.get(key)
        store.put(key, change(record.value), expected_version=record.version)


@retry
def decorated(store, key, change):  # safe
    record = store.get(key)
    store.put(key, change(record.value), expected_version=record.version)


def new_data(store, key, value):  # safe
    while True:
        try:
            store.put(key, value)
            return
        except ConnectionError:
            continue


def watch_multi(keys):  # safe
    with r.pipeline() as pipe:
        while True:
            try:
                pipe.watch(*keys)
                first = pipe.get(keys[0])
                pipe.multi()
                pipe.set(keys[1], first)
                pipe.execute()
                break
            except redis.WatchError:
                continue


def helper(key, add):  # safe
    def change(pipe):
        value = pipe.get(key)
        pipe.multi()
        pipe.set(key, int(value) + add)

    r.transaction(change, key)


async def async_inside(redis_client, key, item):  # safe
    async with redis_client.pipeline() as pipe:
        while True:
            try:
                await pipe.watch(key)
                data = json.loads(await pipe.get(key))
                data["item"] = item
                pipe.multi()
                pipe.set(key, json.dumps(data))
                await pipe.execute()
                break
            except redis.WatchError:
                continue
