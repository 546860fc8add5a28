---------------------------- MODULE GuardedCommit ----------------------------
\* Promise: of writes computed from one version exactly one commits; whoever was replaced writes
\* nothing; an operation is applied once, however often it is sent; a refusal means that nothing
\* happened.
\*
\* One key.  A process reads, thinks, and sends a plan; the store judges it in one atomic step.  A
\* plan that was sent may arrive any number of times, at any time later (thinking is a late
\* arrival), or never: `sent` only grows.  So answers are lost, drivers send again, and old
\* connections deliver late.  A process may stop waiting and begin again under the same operation
\* id, as one that was restarted does.  Each process has one operation to do, named as itself;
\* the name of the agent of `Rival` may be taken over by another process.
\*
\* @code TakeOver backends/sqlite/fences.py:enter backends/postgres/fences.sql:enter
\* @code TakeOver backends/redis/enter.lua
\* @code Send core/update.py:update backends/sqlite/log.py:load
\* @code Send backends/postgres/functions.sql:load backends/redis/load.lua
\* @code Send core/write.py:plan_put core/write.py:plan_delete core/plan.py:expect core/write.py:commit
\* @code Apply backends/sqlite/commit.py:Step.judge backends/sqlite/commit.py:Step._apply
\* @code Apply backends/postgres/judge.sql:standing backends/postgres/commit.sql:apply
\* @code Apply backends/redis/commit.lua:commit
\* @code Refuse backends/sqlite/commit.py:Step._replaced backends/sqlite/commit.py:Step._fenced
\* @code Refuse backends/sqlite/commit.py:Step._moved backends/postgres/judge.sql:judge
\* @code Refuse backends/redis/commit.lua:refused backends/redis/commit.lua:moved
\* @code Replay backends/sqlite/commit.py:Step._applied backends/postgres/functions.sql:operation
\* @code Replay backends/redis/commit.lua:commit
\* @code Reclaim core/lease.py:reclaim_lease backends/sqlite/fences.py:_reclaim
\* @world Restart it gives up waiting, or dies and is started again with the same operation id
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Procs,
  Rival,
  Restarters,
  MaxCommits,
  MaxFaults,
  MaxPlans

VARIABLES
  ver,    \* version of the key; a tombstone keeps it
  live,   \* whether the key exists
  epoch,  \* epoch of the key
  inc,    \* incarnation in force of the name of Rival
  pc,     \* per process: "ready", "waits", "done" or "gone"
  plan,   \* per process: the plan that it waits for
  sent,   \* every plan that was ever sent
  log,    \* the applied commits, each with what it was computed from and what was in force
  lied    \* whether an operation that is in the log was answered with a refusal

vars == <<ver, live, epoch, inc, pc, plan, sent, log, lied>>

NoPlan == [op |-> "none", put |-> FALSE, v |-> 0, e |-> 0, i |-> 0, seen |-> 0]

Init ==
  /\ ver = 0
  /\ live = FALSE
  /\ epoch = 0
  /\ inc = 0
  /\ pc = [p \in Procs |-> "ready"]
  /\ plan = [p \in Procs |-> NoPlan]
  /\ sent = {}
  /\ log = <<>>
  /\ lied = FALSE

\* The version that a reader and the atomic step see.  A deleted key keeps its own.
NeverWritten ==
  /\ ~live
  /\ ver = 0                        \* @guard tombstone -> NoLostUpdate
Version == IF NeverWritten THEN 0 ELSE ver

InForce(p) == IF p = Rival THEN inc ELSE 0
Applied(p) == \E i \in 1..Len(log) : log[i].op = p
Waits(m)   == pc[m.op] = "waits" /\ plan[m.op] = m
Fresh(m)   == m.i = InForce(m.op) /\ m.e = epoch /\ m.v = Version

\* Read, think, send.  What is there is deleted or written again.  The plan names version and
\* epoch; `seen`, how many commits came before, is for the invariant only.
Send(p) ==
  /\ pc[p] = "ready"
  /\ Cardinality(sent) < MaxPlans
  /\ \E put \in BOOLEAN :
       /\ put \/ live
       /\ plan' = [plan EXCEPT ![p] = [op |-> p, put |-> put, v |-> Version, e |-> epoch,
                                       i |-> 0, seen |-> Len(log)]]
  /\ sent' = sent \cup {plan'[p]}
  /\ pc' = [pc EXCEPT ![p] = "waits"]
  /\ UNCHANGED <<ver, live, epoch, inc, log, lied>>

\* A plan arrives and nothing stands against it.  Its answer is heard or lost.
Apply(m) ==
  /\ Len(log) < MaxCommits
  /\ ~Applied(m.op)                 \* @guard operation -> AtMostOnce
  /\ m.i = InForce(m.op)            \* @guard incarnation -> NoReplacedWriter
  /\ m.e = epoch                    \* @guard epoch -> NoZombieWrite
  /\ m.v = Version                  \* @guard version -> NoLostUpdate
  /\ ver' = Version + 1
  /\ live' = m.put
  /\ log' = Append(log, [op |-> m.op, seen |-> m.seen, e |-> m.e, epoch |-> epoch,
                         i |-> m.i, inc |-> InForce(m.op)])
  /\ \E heard \in BOOLEAN :
       /\ (heard => Waits(m))
       /\ pc' = IF heard THEN [pc EXCEPT ![m.op] = "done"] ELSE pc
       /\ plan' = IF heard THEN [plan EXCEPT ![m.op] = NoPlan] ELSE plan
  /\ UNCHANGED <<epoch, inc, sent, lied>>

\* Something stands against a plan: its process reads again, or was replaced and is gone.
Refuse(m) ==
  /\ Waits(m)
  /\ ~Applied(m.op)                 \* @guard replay -> RefusalMeansNothing
  /\ ~Fresh(m)
  /\ pc' = [pc EXCEPT ![m.op] = IF m.i = InForce(m.op) THEN "ready" ELSE "gone"]
  /\ plan' = [plan EXCEPT ![m.op] = NoPlan]
  /\ lied' = (lied \/ Applied(m.op))
  /\ UNCHANGED <<ver, live, epoch, inc, sent, log>>

\* The operation was applied before: the answer of that time.
Replay(m) ==
  /\ Waits(m)
  /\ Applied(m.op)
  /\ pc' = [pc EXCEPT ![m.op] = "done"]
  /\ plan' = [plan EXCEPT ![m.op] = NoPlan]
  /\ UNCHANGED <<ver, live, epoch, inc, sent, log, lied>>

Restart(p) ==
  /\ pc[p] = "waits"
  /\ p \in Restarters
  /\ pc' = [pc EXCEPT ![p] = "ready"]
  /\ plan' = [plan EXCEPT ![p] = NoPlan]
  /\ UNCHANGED <<ver, live, epoch, inc, sent, log, lied>>

Reclaim ==
  /\ epoch + inc < MaxFaults
  /\ epoch' = epoch + 1
  /\ UNCHANGED <<ver, live, inc, pc, plan, sent, log, lied>>

TakeOver ==
  /\ epoch + inc < MaxFaults
  /\ inc' = inc + 1
  /\ UNCHANGED <<ver, live, epoch, pc, plan, sent, log, lied>>

Next ==
  \/ \E p \in Procs : Send(p) \/ Restart(p)
  \/ \E m \in sent : Apply(m) \/ Refuse(m) \/ Replay(m)
  \/ Reclaim
  \/ TakeOver

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ ver \in 0..MaxCommits
  /\ epoch \in 0..MaxFaults
  /\ inc \in 0..MaxFaults
  /\ \A p \in Procs : pc[p] \in {"ready", "waits", "done", "gone"}
  /\ \A p \in Procs : ((pc[p] = "waits") <=> (plan[p] # NoPlan))
  /\ \A p \in Procs : (plan[p] \in sent \cup {NoPlan})

\* Each commit was computed from exactly the commits before it.
NoLostUpdate == \A i \in 1..Len(log) : log[i].seen = i - 1
\* No commit was computed from a reading that a reclaim has revoked.
NoZombieWrite == \A i \in 1..Len(log) : log[i].e = log[i].epoch
\* No commit came from a process whose name was taken over.
NoReplacedWriter == \A i \in 1..Len(log) : log[i].i = log[i].inc
AtMostOnce == \A i, j \in 1..Len(log) : ((log[i].op = log[j].op) => (i = j))
\* Who was told "done" is in the log; who was told of a refusal is not.
AcknowledgedIsKept == \A p \in Procs : ((pc[p] = "done") => Applied(p))
RefusalMeansNothing == ~lied
==============================================================================
