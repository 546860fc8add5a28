------------------------------ MODULE DurableLog ------------------------------
\* Promise: who asked for a durable answer and was told "applied" keeps it, whatever the store loses
\* in a crash, and whoever applied it; an operation is applied once.
\*
\* The log has a durable prefix: what is on the server's disk, or on the standbys and replicas that
\* it waits for.  It is flushed in the order of the log, at any time.  A crash cuts the log to that
\* prefix.  A process sends an operation, perhaps one that somebody else has sent already, who may
\* not have waited; the answer waits until the log is flushed up to `upto`.  Its waiting may be
\* cancelled, or its connection lost: then it does not know, and sends again.
\*
\* @code Apply backends/postgres/commit.sql:commit backends/postgres/commit.sql:commit_single
\* @code Apply backends/sqlite/commit.py:apply_all backends/redis/commit.lua:commit
\* @code Replay backends/postgres/functions.sql:operation backends/postgres/functions.sql:load
\* @code Replay backends/sqlite/commit.py:applied backends/redis/load.lua backends/redis/mark.lua
\* @code Answer backends/postgres/commit.sql:durable backends/sqlite/backend.py:_commit
\* @code Answer backends/redis/backend.py:RedisBackend._check_copies
\* @code AnswerAgain backends/postgres/functions.sql:wait_for_all
\* @code AnswerAgain backends/sqlite/backend.py:SQLiteBackend._reach_disk
\* @code AnswerAgain backends/redis/backend.py:RedisBackend._commands
\* @code Resend backends/drive.py:SyncDriver._resubmit backends/drive_async.py:AsyncDriver._resubmit
\* @world Send a caller asks for an operation, under its id
\* @world Flush the server's log reaches the disk, the standby or the replica
\* @world Cancel somebody cancels the waiting for a standby, or a replica does not confirm in time
\* @world Crash the store dies, or a standby takes over, and what was not flushed is gone
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Procs,
  Full,
  Ops,
  MaxLog,
  MaxCrashes

VARIABLES
  log,        \* the operations that were applied, in order
  disk,       \* how many of them are durable
  crashes,
  pc,         \* per process: "ready", "waits", "applied", "replayed" or "done"
  op,         \* per process: the operation that it sent
  upto,       \* per process: what must be durable before it is answered
  cancelled   \* per process: whether its waiting was cancelled

vars == <<log, disk, crashes, pc, op, upto, cancelled>>

Init ==
  /\ log = <<>>
  /\ disk = 0
  /\ crashes = 0
  /\ pc = [p \in Procs |-> "ready"]
  /\ op = [p \in Procs |-> "none"]
  /\ upto = [p \in Procs |-> 0]
  /\ cancelled = [p \in Procs |-> FALSE]

Applied(o) == \E i \in 1..Len(log) : log[i] = o

Send(p) ==
  /\ pc[p] = "ready"
  /\ \E o \in Ops : op' = [op EXCEPT ![p] = o]
  /\ pc' = [pc EXCEPT ![p] = "waits"]
  /\ UNCHANGED <<log, disk, crashes, upto, cancelled>>

Apply(p) ==
  /\ pc[p] = "waits"
  /\ Len(log) < MaxLog
  /\ ~Applied(op[p])                        \* @guard operation -> AtMostOnce
  /\ log' = Append(log, op[p])
  /\ upto' = [upto EXCEPT ![p] = Len(log) + 1]
  /\ pc' = [pc EXCEPT ![p] = "applied"]
  /\ UNCHANGED <<disk, crashes, op, cancelled>>

\* It was applied before.  Whoever did that may not have waited: everything up to here must be
\* durable.
Replay(p) ==
  /\ pc[p] = "waits"
  /\ Applied(op[p])
  /\ upto' = [upto EXCEPT ![p] = Len(log)]
  /\ pc' = [pc EXCEPT ![p] = "replayed"]
  /\ UNCHANGED <<log, disk, crashes, op, cancelled>>

\* The waiting of a process is over.
Over(p) == p \notin Full \/ cancelled[p] \/ upto[p] <= disk

\* That it was cancelled is no success.
Heard(p) ==
  /\ pc[p] \in {"applied", "replayed"}
  /\ ~cancelled[p]                          \* @guard cancelled -> AcknowledgedIsKept

Answer(p) ==
  /\ Heard(p)
  /\ pc[p] = "applied"
  /\ Over(p)                                \* @guard flushed -> AcknowledgedIsKept
  /\ pc' = [pc EXCEPT ![p] = "done"]
  /\ UNCHANGED <<log, disk, crashes, op, upto, cancelled>>

AnswerAgain(p) ==
  /\ Heard(p)
  /\ pc[p] = "replayed"
  /\ Over(p)                                \* @guard replayed -> AcknowledgedIsKept
  /\ pc' = [pc EXCEPT ![p] = "done"]
  /\ UNCHANGED <<log, disk, crashes, op, upto, cancelled>>

Flush ==
  /\ disk < Len(log)
  /\ disk' = disk + 1
  /\ UNCHANGED <<log, crashes, pc, op, upto, cancelled>>

Cancel(p) ==
  /\ pc[p] \in {"applied", "replayed"}
  /\ p \in Full
  /\ ~cancelled[p]
  /\ cancelled' = [cancelled EXCEPT ![p] = TRUE]
  /\ UNCHANGED <<log, disk, crashes, pc, op, upto>>

\* It was cancelled, or its connection was lost.
Resend(p) ==
  /\ pc[p] \in {"applied", "replayed"}
  /\ pc' = [pc EXCEPT ![p] = "waits"]
  /\ upto' = [upto EXCEPT ![p] = 0]
  /\ cancelled' = [cancelled EXCEPT ![p] = FALSE]
  /\ UNCHANGED <<log, disk, crashes, op>>

Crash ==
  /\ crashes < MaxCrashes
  /\ disk < Len(log)
  /\ crashes' = crashes + 1
  /\ log' = SubSeq(log, 1, disk)
  /\ pc' = [p \in Procs |-> IF pc[p] \in {"applied", "replayed"} THEN "waits" ELSE pc[p]]
  /\ upto' = [p \in Procs |-> 0]
  /\ cancelled' = [p \in Procs |-> FALSE]
  /\ UNCHANGED <<disk, op>>

Next ==
  \/ \E p \in Procs : Send(p) \/ Apply(p) \/ Replay(p) \/ Answer(p) \/ AnswerAgain(p)
  \/ \E p \in Procs : Cancel(p) \/ Resend(p)
  \/ Flush
  \/ Crash

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ disk \in 0..MaxLog
  /\ disk <= Len(log)
  /\ crashes \in 0..MaxCrashes
  /\ \A p \in Procs : pc[p] \in {"ready", "waits", "applied", "replayed", "done"}
  /\ \A p \in Procs : (op[p] \in Ops \cup {"none"})

AtMostOnce == \A i, j \in 1..Len(log) : ((log[i] = log[j]) => (i = j))
\* Who asked for a durable answer and has one finds its operation in the log.
AcknowledgedIsKept == \A p \in Full : ((pc[p] = "done") => Applied(op[p]))
===============================================================================
