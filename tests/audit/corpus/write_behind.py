"""Buffers that are flushed later."""

import asyncio
import atexit
import json
import threading
from pathlib import Path


class AtExit:  # racy
    def __init__(self, db):
        self.db = db
        self.rows = []
        atexit.register(self.flush)

    def add(self, row):
        self.rows.append(row)

    def flush(self):
        self.db.insert_many(self.rows)
        self.rows = []


class OnTimer:  # racy
    def __init__(self, store):
        self.store = store
        self.pending = {}
        self._arm()

    def _arm(self):
        threading.Timer(5, self._save).start()

    def put(self, key, value):
        self.pending[key] = value

    def _save(self):
        batch, self.pending = self.pending, {}
        self.store.save(batch)
        self._arm()


class InLoop:  # racy
    def __init__(self, repo):
        self.repo = repo
        self._queue = []

    async def run(self):
        while True:
            await asyncio.sleep(0)
            await self._flush()

    def enqueue(self, item):
        self._queue.append(item)

    async def _flush(self):
        items = list(self._queue)
        self._queue.clear()
        await self.repo.save_all(items)


class Debounced:  # racy
    def __init__(self, storage):
        self.storage = storage
        self._updates = []
        self._timer = None

    def add(self, update):
        self._updates.append(update)
        self._timer = threading.Timer(30, self._process)
        self._timer.start()

    def _process(self):
        updates = self._updates.copy()
        self._updates.clear()
        for each in updates:
            self.storage.update(each)


class WhenCollected:  # racy
    def __init__(self, path):
        self.path = Path(path)
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def close(self):
        self.path.write_text(json.dumps(self.notes))
        self.notes = []

    def __del__(self):
        self.close()


class SizeOrExit:  # racy
    def __init__(self, client):
        self.client = client
        self.batch = []
        atexit.register(self.flush)

    def write(self, row):
        self.batch.append(row)
        if len(self.batch) >= 100:
            self.flush()

    def flush(self):
        self.client.bulk_insert(self.batch)
        self.batch.clear()


class Scheduled:  # racy
    def __init__(self, scheduler, db):
        self.db = db
        self.changes = {}
        scheduler.add_job(self.sync, "interval", seconds=10)

    def change(self, key, value):
        self.changes[key] = value

    def sync(self):
        for key in list(self.changes):
            self.db.update(key, self.changes.pop(key))


class EventLoop:  # racy
    def __init__(self, loop, store):
        self.loop = loop
        self.store = store
        self.dirty = set()

    def touch(self, key):
        self.dirty.add(key)
        self.loop.call_later(1, self.write_all)

    def write_all(self):
        for key in self.dirty:
            self.store.put(key, 1)
        self.dirty = set()


class WaitLoop:  # racy
    def __init__(self, db):
        self.db = db
        self.stop = threading.Event()
        self.entries = []
        threading.Thread(target=self._work).start()

    def append(self, entry):
        self.entries.append(entry)

    def _work(self):
        while not self.stop.wait(2):
            rows, self.entries = self.entries, []
            self.db.insert(rows)


class Memories:  # racy
    def __init__(self, collection):
        self.collection = collection
        self.buffer = []
        atexit.register(self._persist)

    def remember(self, text):
        self.buffer.append(text)

    def _persist(self):
        self.collection.add_documents(self.buffer)
        self.buffer = []


# What looks like it and is not.


class Direct:  # safe
    def __init__(self, db):
        self.db = db
        self.rows = []
        atexit.register(self.close)

    def add(self, row):
        self.db.insert(row)
        self.rows.append(row)

    def close(self):
        self.db.close()


class Flushed:  # safe
    def __init__(self, db):
        self.db = db
        self.rows = []
        atexit.register(self.flush)

    def add(self, row):
        self.rows.append(row)
        self.flush()

    def flush(self):
        self.db.insert_many(self.rows)
        self.rows = []


class Explicit:  # safe
    def __init__(self, db):
        self.db = db
        self.rows = []

    def add(self, row):
        self.rows.append(row)

    def flush(self):
        self.db.insert_many(self.rows)
        self.rows = []


class Context:  # safe
    def __init__(self, db):
        self.db = db
        self.rows = []

    def __exit__(self, *error):
        self.db.insert_many(self.rows)
        self.rows = []

    def add(self, row):
        self.rows.append(row)


class MetricsBuffer:  # safe
    def __init__(self, client):
        self.client = client
        self.points = []
        atexit.register(self.flush)

    def add(self, point):
        self.points.append(point)

    def flush(self):
        self.client.send(self.points)
        self.points = []


class Pool:  # safe
    def __init__(self):
        self.connections = []
        atexit.register(self.close_all)

    def take(self, connection):
        self.connections.append(connection)

    def close_all(self):
        for each in self.connections:
            each.close()
        self.connections = []


class Cache:  # safe
    def __init__(self):
        self.entries = {}
        threading.Timer(60, self.evict).start()

    def put(self, key, value):
        self.entries[key] = value

    def evict(self):
        self.entries.clear()


class Answered:  # safe
    def __init__(self, db, loop):
        self.db = db
        self.waiting = []
        loop.call_later(0.01, self.flush)
        self.loop = loop

    async def add(self, row):
        done = self.loop.create_future()
        self.waiting.append((row, done))
        await done

    def flush(self):
        self.db.insert_many(self.waiting)
        self.waiting = []


class Listeners:  # safe
    def __init__(self):
        self.listeners = []
        atexit.register(self.stop)

    def on(self, fn):
        self.listeners.append(fn)

    def stop(self):
        self.listeners = []


class Reader:  # safe
    def __init__(self, db):
        self.db = db
        self.rows = []

    def run(self):
        while True:
            threading.Event().wait(1)
            self.refresh()

    def refresh(self):
        self.rows = self.db.fetch_all("SELECT 1")
