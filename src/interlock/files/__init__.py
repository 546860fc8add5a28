"""Shared documents: content lives in the space, and the files of a folder are its projection.

A document with the path `plans/a.md` is the key `files/plans/a.md`, whose value is
`{"text": ..., "mode": 420}`, or `{"base64": ..., "mode": 420}` where the content is no text.

`document` says what a document is, `disk` does single steps on the disk, `workspace` puts a version
in place whoever else does so, and `merge` merges texts.  `operations` (read, write, publish) and
`sync` (the disk and the space, and edits made around the space) are the protocols; `context` is
what they share.
"""
