"""The API without asyncio: generated from `_async` by `tools/unasync.py`.

Only `concurrency` and `opening`, where the two differ, are written by hand.
"""
