"""Which of OpenAI Agents' own tests fail with our session, and why: 0.24.0, `FILES` below.

Each looks into `SQLiteSession` itself: its tables, its connections, or private methods that other
code of the framework calls on no other class; or it wants two runs of one session at once.
"""

from __future__ import annotations

FILES = (
    "tests/memory/test_session.py",
    "tests/memory/test_session_limit.py",
    "tests/memory/test_session_context_wrapper.py",
    "tests/memory/test_session_persistence_sanitize.py",
    "tests/memory/test_openai_responses_compaction_session.py",
    "tests/memory/test_compaction_model_visibility.py",
    "tests/extensions/memory/test_encrypt_session.py",
    "tests/sandbox/test_memory.py",
    "tests/test_agent_runner.py",
    "tests/test_agent_runner_streamed.py",
    "tests/test_max_turns.py",
    "tests/test_native_tool_failure_history.py",
    "tests/test_programmatic_tool_calling.py",
    "tests/test_run_impl_resume_paths.py",
    "tests/test_soft_cancel.py",
    "tests/test_tool_batch_failure_history.py",
    "tests/test_tool_failure_boundaries.py",
)

_WHY = {
    "connections": "looks at the connections and locks that SQLiteSession keeps",
    "tables": "reads or breaks SQLiteSession's tables with SQL of its own",
    "corrupt": "plants corrupt rows in SQLiteSession's table; a space holds JSON only",
    "closed": "wants RuntimeError of a closed SQLiteSession; here the space is what is closed",
    "json": "wants json.dumps' own TypeError; here an item that is no JSON is SessionInvalid",
    "insert": "stops SQLiteSession in the middle of its private _insert_items",
    "snapshot": "needs the private _get_compaction_snapshot, which only OpenAI's own sessions have",
    "turns": "wants a second run, or a clear, while a run has the session; here it is refused",
    "validation": "wants the check of SQLiteSession's private _pop_item_with_validation, which "
    "EncryptedSession uses with no other class",
}
_FAILURES: dict[str, dict[str, tuple[str, ...]]] = {
    "connections": {
        "tests/memory/test_session.py": (
            "test_sqlite_session_close_closes_worker_thread_connections",
            "test_sqlite_session_reaps_connections_from_exited_worker_threads",
            "test_sqlite_session_closes_retired_connections_before_the_next_allocation",
            "test_sqlite_session_keeps_connections_of_live_worker_threads",
            "test_sqlite_session_file_lock_is_shared_across_instances",
            "test_sqlite_session_rollback_failure_evicts_connection",
            "test_sqlite_session_close_retries_quarantined_connection",
            "test_sqlite_session_post_commit_cancellation_propagates_after_known_outcome[add]",
            "test_sqlite_session_post_commit_cancellation_propagates_after_known_outcome[pop]",
            "test_sqlite_session_post_commit_cancellation_propagates_after_known_outcome[clear]",
        ),
        "tests/memory/test_openai_responses_compaction_session.py": (
            "TestOpenAIResponsesCompactionSession::"
            "test_settled_pop_failure_invalidates_response_chain[cancelled]",
            "TestOpenAIResponsesCompactionSession::"
            "test_settled_pop_failure_invalidates_response_chain[error]",
            "TestOpenAIResponsesCompactionSession::"
            "test_settled_clear_failure_invalidates_response_chain[cancelled]",
            "TestOpenAIResponsesCompactionSession::"
            "test_settled_clear_failure_invalidates_response_chain[error]",
        ),
    },
    "tables": {
        "tests/memory/test_session.py": (
            "test_sqlite_session_failed_clear_session_rolls_back",
            "test_sqlite_session_failed_pop_item_releases_write_lock",
        ),
    },
    "corrupt": {
        "tests/memory/test_session.py": (
            "test_sqlite_session_pop_item_skips_corrupt_most_recent",
            "test_sqlite_session_pop_item_returns_none_after_dropping_only_corrupt_rows",
            "test_sqlite_session_get_items_limit_skips_corrupt_newest_rows",
            "test_sqlite_session_get_items_session_settings_limit_skips_corrupt_rows",
        ),
    },
    "closed": {
        "tests/memory/test_session.py": ("test_sqlite_session_closed_rejects_empty_add_items",),
    },
    "json": {
        "tests/memory/test_session.py": (
            "test_sqlite_session_failed_add_items_releases_write_lock",
        ),
    },
    "insert": {
        "tests/test_run_impl_resume_paths.py": (
            "test_handoff_resume_after_cancelled_compaction_commits[run-live]",
            "test_handoff_resume_after_cancelled_compaction_commits[run-json]",
            "test_handoff_resume_after_cancelled_compaction_commits[streamed-live]",
            "test_handoff_resume_after_cancelled_compaction_commits[streamed-json]",
        ),
    },
    "snapshot": {
        "tests/memory/test_openai_responses_compaction_session.py": (
            "TestOpenAIResponsesCompactionSession::test_automatic_compaction_rollback_budget[True]",
        ),
        "tests/memory/test_compaction_model_visibility.py": (
            "test_backend_read_limit_cannot_hide_retained_history_from_compaction[False-False]",
            "test_backend_read_limit_cannot_hide_retained_history_from_compaction[False-True]",
            "test_backend_read_limit_cannot_hide_retained_history_from_compaction[True-False]",
            "test_backend_read_limit_cannot_hide_retained_history_from_compaction[True-True]",
            "test_automatic_compaction_does_not_reload_unbounded_hidden_history[none-False]",
            "test_automatic_compaction_does_not_reload_unbounded_hidden_history[none-True]",
            "test_automatic_compaction_does_not_reload_unbounded_hidden_history[outer-False]",
            "test_automatic_compaction_does_not_reload_unbounded_hidden_history[outer-True]",
            "test_automatic_compaction_does_not_reload_unbounded_hidden_history[inner-False]",
            "test_automatic_compaction_does_not_reload_unbounded_hidden_history[inner-True]",
            "test_expired_read_overhead_does_not_authorize_hidden_history[False]",
            "test_expired_read_overhead_does_not_authorize_hidden_history[True]",
        ),
        "tests/extensions/memory/test_encrypt_session.py": (
            "test_encrypted_compaction_skips_unencrypted_stored_history",
        ),
    },
    "turns": {
        "tests/extensions/memory/test_encrypt_session.py": (
            "test_clear_revokes_encrypted_deferred_compaction",
            "test_encrypted_runner_skips_compaction_after_interleaved_outer_write[after-append]",
            "test_encrypted_runner_skips_compaction_after_interleaved_outer_write[before-append]",
        ),
    },
    "validation": {
        "tests/extensions/memory/test_encrypt_session.py": (
            "test_encrypted_pop_wrong_key_preserves_recoverable_history[False]",
            "test_encrypted_pop_wrong_key_preserves_recoverable_history[True]",
            "test_encrypted_pop_rechecks_authentication_after_expired_tail",
            "test_encrypted_pop_authentication_is_atomic_with_concurrent_mutations[append]",
            "test_encrypted_pop_authentication_is_atomic_with_concurrent_mutations[clear]",
            "test_encrypted_pop_wrong_key_preserves_row_identity",
            "test_encrypted_pop_cancellation_waits_for_authentication_rollback",
        ),
    },
}

EXPECTED_FAILURES = {
    f"{file}::{test}": _WHY[why]
    for why, files in _FAILURES.items()
    for file, tests in files.items()
    for test in tests
}
