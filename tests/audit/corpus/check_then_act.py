"""Check, then act."""

import json
import sqlite3

import redis
from sqlalchemy import Column, Integer, String

r = redis.Redis()


class Base: ...


class Job(Base):
    __tablename__ = "jobs"
    id = Column(Integer, primary_key=True)
    status = Column(String)
    owner = Column(String)


class Tag(Base):
    __tablename__ = "tags"
    id = Column(Integer, primary_key=True)
    name = Column(String)


class Email(Base):
    __tablename__ = "emails"
    id = Column(Integer, primary_key=True)
    address = Column(String, unique=True)


def exists_then_set(key):  # racy
    if r.exists(key):
        return False
    r.set(key, "1")
    return True


def not_exists(key, value):  # racy
    if not r.exists(key):
        r.set(key, value)


async def dedupe_before_model(redis_client, llm, task_id, prompt):  # racy
    if await redis_client.exists(f"done:{task_id}"):
        return None
    answer = await llm.ainvoke(prompt)
    await redis_client.set(f"done:{task_id}", answer)
    return answer


def state_change(order):  # racy
    status = r.get(f"order:{order}")
    if status != b"paid":
        raise ValueError("not paid")
    r.set(f"order:{order}", "shipped")


def hash_owner(task, agent):  # racy
    if r.hget(f"task:{task}", "owner") is not None:
        raise ValueError("taken")
    r.hset(f"task:{task}", "owner", agent)


def hash_exists(task, agent):  # racy
    if not r.hexists(f"task:{task}", "owner"):
        r.hset(f"task:{task}", "owner", agent)


def claimed_row(conn: sqlite3.Connection, worker):  # racy
    row = conn.execute("SELECT id FROM jobs WHERE status = 'pending' LIMIT 1").fetchone()
    conn.execute("UPDATE jobs SET status = 'running', worker = ? WHERE id = ?", (worker, row[0]))


def claimed_object(session, agent):  # racy
    job = session.query(Job).filter(Job.id == 7).first()
    if job.status != "pending":
        raise ValueError("not pending")
    job.status = "running"
    session.commit()


def insert_once(conn, name):  # racy
    row = conn.execute("SELECT id FROM topics WHERE name = ?", (name,)).fetchone()
    if row is None:
        conn.execute("INSERT INTO topics (name) VALUES (?)", (name,))


def tag_once(session, name):  # racy
    tag = session.query(Tag).filter_by(name=name).first()
    if tag is None:
        tag = Tag(name=name)
        session.add(tag)
    return tag


async def store_exists(job_store, key, job):  # racy
    if await job_store.exists(key):
        raise ValueError("exists")
    await job_store.save(key, job)


# What looks like it and is not.


def set_nx(key):  # safe
    if not r.set(key, "1", nx=True, ex=60):
        return False
    return True


def setnx_first(key, value):  # safe
    if r.setnx(key, value):
        r.expire(key, 60)


def sadd_answer(task_id):  # safe
    if not r.sadd("done", task_id):
        return
    r.set(f"started:{task_id}", "1")


def delete_if_there(key):  # safe
    if r.exists(key):
        r.delete(key)


def cached(key, compute):  # safe
    value = r.get(key)
    if value:
        return json.loads(value)
    value = compute()
    r.set(key, json.dumps(value))
    return value


def exists_then_get(key, compute):  # safe
    if r.exists(key):
        return r.get(key)
    value = compute()
    r.set(key, value)
    return value


def under_lock(key):  # safe
    with r.lock("setup"):
        if r.exists(key):
            return
        r.set(key, "1")


def claim_compares(conn, worker):  # safe
    row = conn.execute("SELECT id FROM jobs WHERE status = 'pending' LIMIT 1").fetchone()
    done = conn.execute(
        "UPDATE jobs SET status = 'running', worker = ? WHERE id = ? AND status = 'pending'", (worker, row[0])
    )
    return done.rowcount == 1


def claim_skip_locked(conn, worker):  # safe
    row = conn.execute("SELECT id FROM jobs WHERE status = 'pending' LIMIT 1 FOR UPDATE SKIP LOCKED").fetchone()
    conn.execute("UPDATE jobs SET status = 'running', worker = ? WHERE id = ?", (worker, row[0]))


def insert_or_ignore(conn, name):  # safe
    row = conn.execute("SELECT id FROM topics WHERE name = ?", (name,)).fetchone()
    if row is None:
        conn.execute("INSERT INTO topics (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))


def insert_caught(conn, name):  # safe
    if conn.execute("SELECT 1 FROM topics WHERE name = ?", (name,)).fetchone() is None:
        try:
            conn.execute("INSERT INTO topics (name) VALUES (?)", (name,))
        except sqlite3.IntegrityError:
            pass


def unique_column(session, address):  # safe
    email = session.query(Email).filter_by(address=address).first()
    if email is None:
        session.add(Email(address=address))


def locked_row(session):  # safe
    job = session.query(Job).filter(Job.id == 7).with_for_update().first()
    if job.status != "pending":
        raise ValueError("not pending")
    job.status = "running"
    session.commit()


def other_key(key, value):  # safe
    if r.exists(f"enabled:{key}"):
        r.set(f"value:{key}", value)


async def django_rate_limit(user, limit):  # racy
    used = await Visit.objects.filter(user=user).acount()
    if used >= limit:
        raise ValueError("too many")
    await Visit.objects.acreate(user=user)


class Persona(SQLModel, table=True):
    id: int
    name: str


class Personas:
    def by_name(self, session, name):
        return session.query(Persona).filter(Persona.name == name).first()

    def given_row_added_if_missing(self, session, persona: Persona):  # racy
        if self.by_name(session, persona.name):
            raise ValueError("exists")
        session.add(persona)


class Profile(models.Model):
    user = models.OneToOneField("User")


def django_one_to_one(user):  # safe
    if not Profile.objects.filter(user=user).exists():
        Profile.objects.create(user=user)
