"""What happened: lost updates found and rebuilt, overlapping writes, anomalies in foreign traces.

`open_source` reads the history of keys from where it is recorded, `find_losses` says what was lost,
`propose` how to bring it back, `Watcher` does the same while it happens.  `find_anomalies` checks
traces of agents, Interlock's own commits among them: the anomalies and the levels are those of
S. Khan, "Verified Detection and Prevention of Concurrency Anomalies in Multi-Agent Large Language
Model Systems", arXiv 2606.17182.
"""

from __future__ import annotations

from interlock.forensics.analyzer import Analyzer, Key
from interlock.forensics.anomalies import Anomaly, Report, SessionReport, find_anomalies
from interlock.forensics.changes import Fact
from interlock.forensics.commits import export_trace
from interlock.forensics.feeds import open_feed
from interlock.forensics.history import Event
from interlock.forensics.history_table import history_sql
from interlock.forensics.loss import Loss, Overlap
from interlock.forensics.monitor import Alert, Thresholds, Watcher, read_thresholds
from interlock.forensics.operations import BadTrace, Operation, read_trace
from interlock.forensics.record import Keyspace, monitor_lines
from interlock.forensics.report import Findings, find_losses
from interlock.forensics.sources import Source, open_source
from interlock.forensics.targets import Proposal, Target, open_target, propose, value_at

__all__ = [
    "Alert",
    "Analyzer",
    "Anomaly",
    "BadTrace",
    "Event",
    "Fact",
    "Findings",
    "Key",
    "Keyspace",
    "Loss",
    "Operation",
    "Overlap",
    "Proposal",
    "Report",
    "SessionReport",
    "Source",
    "Target",
    "Thresholds",
    "Watcher",
    "export_trace",
    "find_anomalies",
    "find_losses",
    "history_sql",
    "monitor_lines",
    "open_feed",
    "open_source",
    "open_target",
    "propose",
    "read_thresholds",
    "read_trace",
    "value_at",
]
