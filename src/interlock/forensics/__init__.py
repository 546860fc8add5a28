"""Finds concurrency anomalies in traces of agents, Interlock's own commits among them.

The anomalies and the levels are those of S. Khan, "Verified Detection and Prevention of Concurrency
Anomalies in Multi-Agent Large Language Model Systems", arXiv 2606.17182.
"""

from __future__ import annotations

from interlock.forensics.anomalies import Anomaly, Report, SessionReport, find_anomalies
from interlock.forensics.commits import export_trace
from interlock.forensics.operations import BadTrace, Operation, read_trace

__all__ = [
    "Anomaly",
    "BadTrace",
    "Operation",
    "Report",
    "SessionReport",
    "export_trace",
    "find_anomalies",
    "read_trace",
]
