"""The API, written by hand for asyncio.  `_sync` is generated from it by `tools/unasync.py`.

One noun in a file.  What the two differ in is in `concurrency` and `opening`, by hand in both.
"""
