"""Keys built from shared properties of a task."""

import hashlib
from datetime import date, datetime
from pathlib import Path
from uuid import uuid4

import redis

r = redis.Redis()


def by_topic(topic, llm):  # racy
    report = llm.invoke(topic)
    r.set(f"report:{topic}", report)


def by_date(llm):  # racy
    today = date.today()
    summary = llm.invoke("summarise")
    r.set(f"summary:{today}", summary)


def by_model(model_name, result):  # racy
    r.hset(f"results:{model_name}", "latest", result)


def topic_and_model(topic, model, answer):  # racy
    r.setex(f"{topic}:{model}", 3600, answer)


def task_attribute(task, result):  # racy
    r.set(f"result:{task.topic}", result)


async def framework_store(store, topic, findings):  # racy
    await store.aput(("research",), f"findings-{topic}", {"findings": findings})


def file_by_topic(topic, report):  # racy
    Path(f"reports/{topic}.md").write_text(report)


def opened_by_topic(topic, report):  # racy
    with open(f"{topic}_report.md", "w") as f:
        f.write(report)


def storage_by_category(storage, category, analysis):  # racy
    storage.save(f"analysis/{category}", analysis)


def by_query(query, response):  # racy
    r.set(f"answer:{query}", response)


def by_company(company, llm):  # racy
    analysis = llm.invoke(company)
    r.set("analysis:" + company, analysis)


# What looks like it and is not.


def by_agent(agent_id, topic, report):  # safe
    r.set(f"report:{agent_id}:{topic}", report)


def by_session(session_id, report):  # safe
    r.set(f"report:{session_id}", report)


def by_uuid(topic, report):  # safe
    r.set(f"report:{topic}:{uuid4()}", report)


def by_run(run_id, topic, result):  # safe
    Path(f"out/{run_id}/{topic}.md").write_text(result)


def by_hash(topic, report):  # safe
    digest = hashlib.sha256(report.encode()).hexdigest()
    r.set(f"report:{topic}:{digest}", report)


def pushed(topic, report):  # safe
    r.rpush(f"report:{topic}", report)


def cache(topic, compute):  # safe
    answer = r.get(f"answer:{topic}")
    if answer is not None:
        return answer
    answer = compute(topic)
    r.set(f"answer:{topic}", answer)
    return answer


def only_if_new(topic, report):  # safe
    r.set(f"report:{topic}", report, nx=True)


def with_version(storage, topic, report, version):  # safe
    storage.save(f"report/{topic}", report, expected_version=version)


def constant_settings(language, value):  # safe
    r.set(f"settings:{language}", value)


def by_user(user, date, summary):  # safe
    r.set(f"summary:{user.id}:{date}", summary)


def at_a_moment(topic, report):  # safe
    Path(f"{topic}-{datetime.now().timestamp()}.md").write_text(report)
