"""Read, change, write of kept copies, of rows that save() writes and of calls by name."""

import asyncio
import json
import pickle
import threading
from pathlib import Path

import redis
from django.db import models
from django.db.models import F
from filelock import FileLock
from sqlalchemy import Column, Integer, String, select, update

r = redis.Redis()
STATE = Path("state.json")


class Base: ...


class Account(Base):
    __tablename__ = "accounts"
    id = Column(Integer, primary_key=True)
    balance = Column(Integer)
    data = Column(String)


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
