"""Suites that others wrote, run unmodified against Interlock's adapters: `make peers`.

`python -m tests.peers [SUITE...] [--store sqlite] [--json]` takes each suite from the package that
its authors published: pip fetches the source distribution at a pinned version, its hash is checked,
and it is unpacked into `build/peers/` anew for each run.  A suite runs in an environment of its own
(`.venv-peers`: the group `peers` of pyproject.toml), which also holds what only these suites need.

A plugin of pytest (`langgraph_plugin.py`, ...) puts our classes in the place of the framework's
before the suite imports them; nothing else is changed.  It finds the store in the environment
variable `INTERLOCK_PEERS_URL`, and cannot import from `tests`: that is the suite's own folder.

Tests that look into the other implementation (its tables, its file) must fail.  Each is named with
its reason in a module of the suite (`openai_expected.py`, ...).  A test that fails and is not named
there fails the run, and so does one that is named and passes, or is named and gone, and a suite
with fewer tests than it had when it was pinned.

`--own` runs a suite without our plugin, with what its framework brings: all must pass there, which
shows that suite and environment are sound.
"""
