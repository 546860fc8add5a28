"""Shared documents: content lives in the space, and the files of a folder are its projection.

A document with the path `plans/a.md` is the key `files/plans/a.md`, whose value is
`{"text": ..., "mode": 420}`, or `{"base64": ..., "mode": 420}` where the content is no text.

`documents` says what a document is, `disk` does one step on the disk each, `workspace` puts a
version in place whoever else does so, `merging` merges texts, and `steps` are the operations,
written once for `handles` and `aio_handles`.
"""
