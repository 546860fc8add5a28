"""Vectors under fixed ids."""

import hashlib
import uuid

import chromadb
from qdrant_client import QdrantClient
from qdrant_client.models import PointStruct

client = QdrantClient()
chroma = chromadb.Client()


def constant(collection, text):  # racy
    collection.upsert(ids=["summary"], documents=[text])


def positions(collection, docs):  # racy
    collection.upsert(ids=[str(i) for i in range(len(docs))], documents=docs)


def named_positions(collection, docs):  # racy
    collection.upsert(ids=[f"doc_{i}" for i in range(len(docs))], documents=docs)


def enumerated(collection, docs):  # racy
    ids = [f"chunk-{i}" for i, _ in enumerate(docs)]
    collection.add(ids=ids, documents=docs)


def point_constant(vector):  # racy
    client.upsert(collection_name="memory", points=[PointStruct(id=1, vector=vector, payload={})])


def points_enumerated(vectors):  # racy
    client.upsert(
        collection_name="memory",
        points=[PointStruct(id=i, vector=vector) for i, vector in enumerate(vectors)],
    )


def pinecone_tuple(index, embedding):  # racy
    index.upsert(vectors=[("profile", embedding)])


def pinecone_dict(index, embedding):  # racy
    index.upsert(vectors=[{"id": "profile", "values": embedding}])


def texts(vector_store, texts):  # racy
    vector_store.add_texts(texts, ids=[str(n) for n in range(len(texts))])


def documents(vectorstore, docs):  # racy
    vectorstore.add_documents(documents=docs, ids=["a", "b", "c"])


def index_positional(index, embeddings):  # racy
    index.upsert([(str(i), e) for i, e in enumerate(embeddings)])


# What looks like it and is not.


def uuids(collection, docs):  # safe
    collection.upsert(ids=[str(uuid.uuid4()) for _ in docs], documents=docs)


def content_hash(collection, docs):  # safe
    collection.upsert(ids=[hashlib.sha256(d.encode()).hexdigest() for d in docs], documents=docs)


def source_and_position(collection, source, docs):  # safe
    collection.upsert(ids=[f"{source}-{i}" for i, _ in enumerate(docs)], documents=docs)


def own_ids(collection, docs):  # safe
    collection.upsert(ids=[d.id for d in docs], documents=[d.text for d in docs])


def given(collection, ids, docs):  # safe
    collection.upsert(ids=ids, documents=docs)


def point_uuid(vector):  # safe
    client.upsert(collection_name="memory", points=[PointStruct(id=str(uuid.uuid4()), vector=vector)])


def point_of_memory(memory):  # safe
    client.upsert(collection_name="memory", points=[PointStruct(id=memory.id, vector=memory.vector)])


def pinecone_own(index, items):  # safe
    index.upsert(vectors=[(item.id, item.values) for item in items])


def texts_without_ids(vector_store, texts):  # safe
    vector_store.add_texts(texts)


def one_per_user(index, user_id, embedding):  # safe
    index.upsert(vectors=[(f"profile-{user_id}", embedding)])


def a_set(ids):  # safe
    seen = set()
    for each in ids:
        seen.add(each)
    return seen
