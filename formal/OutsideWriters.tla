---------------------------- MODULE OutsideWriters ----------------------------
\* Promise: a guarded write never destroys a change that it was not computed from, whoever made it; a
\* refusal means that nothing happened; where receipts are kept, a write is applied once.
\*
\* One key outside, which writers without a guard overwrite, delete and put back as they like, its
\* version too.  Who writes through a guard reads, thinks, and sends a change that names the tag of its
\* reading: all of the content.  The place compares and replaces.  A change that was sent may arrive late
\* or several times, and its answer may be lost; then it is sent again.  A place that keeps receipts knows
\* what it has applied (Redis); any other one (rows, documents, files) cannot tell the writer's own
\* change from one of somebody else, and the writer is told that nobody knows.
\*
\* @code Read guards/outside.py:Outside._load guards/outside.py:Outside._record_of
\* @code Send core/update.py:update guards/outside.py:Outside._commit guards/outside.py:Outside._stamped
\* @code Judge guards/places/step.lua guards/places/string.lua
\* @code Judge guards/places/hash.lua guards/places/file.py:Files._replace
\* @code Judge guards/places/sqlite_row.py:SqliteRow.update guards/places/postgres_row.py:PostgresRow.update
\* @code Judge guards/places/collection.py:Documents.replace
\* @code Replace guards/places/string.lua guards/places/step.lua
\* @code Replace guards/places/file.py:_exchange guards/places/sqlite_row.py:SqliteRow.insert
\* @code Refuse guards/outside.py:conflict
\* @code Replay guards/places/step.lua
\* @code GiveUp guards/places/rows.py:Rows.replace
\* @world Blind somebody writes or deletes around the guard, without looking
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Procs,
  Datas,
  MaxBlind,
  MaxCommits,
  MaxSends

VARIABLES
  there,      \* what is at the key: whether anything is, the version that it carries, and the rest
  remembers,  \* whether the place keeps receipts
  pc,         \* per process: "ready", "thinks", "waits", "done" or "unsure"
  read,       \* per process: the content that it thinks about
  plan,       \* per process: the change that it waits for
  sent,       \* the changes that may still arrive
  sends,      \* how many were sent
  again,      \* whose answer was lost
  judged,     \* the change that was compared and has not yet replaced anything
  log,        \* the guarded writes, each with what it was computed from and what it replaced
  blind,      \* how often somebody wrote around the guard
  lied        \* whether a write that was applied was answered with a refusal

vars == <<there, remembers, pc, read, plan, sent, sends, again, judged, log, blind, lied>>

Nothing == [live |-> FALSE, v |-> 0, data |-> 0]
NoPlan == [op |-> "none", tag |-> Nothing, saw |-> Nothing, new |-> Nothing]

Init ==
  /\ there \in {Nothing, [live |-> TRUE, v |-> 1, data |-> 0]}
  /\ remembers \in BOOLEAN
  /\ pc = [p \in Procs |-> "ready"]
  /\ read = [p \in Procs |-> Nothing]
  /\ plan = [p \in Procs |-> NoPlan]
  /\ sent = {}
  /\ sends = 0
  /\ again = {}
  /\ judged = NoPlan
  /\ log = <<>>
  /\ blind = 0
  /\ lied = FALSE

Applied(p) == \E i \in 1..Len(log) : log[i].op = p
Waits(m)   == pc[m.op] = "waits" /\ plan[m.op] = m

\* What somebody writes who has not looked: any data, with a version of any time; or nothing.
Blind ==
  /\ blind < MaxBlind
  /\ judged = NoPlan                \* @guard atomic -> NeverUnseen
  /\ \/ \E data \in Datas : \E v \in 0..there.v :
          there' = [live |-> TRUE, v |-> v, data |-> data]
     \/ there' = Nothing
  /\ there' # there
  /\ blind' = blind + 1
  /\ UNCHANGED <<remembers, pc, read, plan, sent, sends, again, judged, log, lied>>

Read(p) ==
  /\ pc[p] = "ready"
  /\ sends < MaxSends
  /\ read' = [read EXCEPT ![p] = there]
  /\ pc' = [pc EXCEPT ![p] = "thinks"]
  /\ UNCHANGED <<there, remembers, plan, sent, sends, again, judged, log, blind, lied>>

\* What is read is deleted, or written with the next version.  The tag is that of the reading, not one that
\* was taken after it.
Send(p) ==
  /\ pc[p] = "thinks"
  /\ sends < MaxSends
  /\ \E tag \in {read[p], there} : \E put \in BOOLEAN :
       /\ tag = read[p]             \* @guard reading -> NeverUnseen
       /\ put \/ read[p].live
       /\ plan' = [plan EXCEPT ![p] =
            [op |-> p, tag |-> tag, saw |-> read[p],
             new |-> IF put THEN [live |-> TRUE, v |-> read[p].v + 1, data |-> 1] ELSE Nothing]]
  /\ sent' = sent \cup {plan'[p]}
  /\ sends' = sends + 1
  /\ again' = again \ {p}
  /\ pc' = [pc EXCEPT ![p] = "waits"]
  /\ UNCHANGED <<there, remembers, read, judged, log, blind, lied>>

\* A change arrives and is compared.  Until it has replaced what is there, nobody else writes.
Judge(m) ==
  /\ Len(log) < MaxCommits
  /\ judged = NoPlan
  /\ ~(remembers /\ Applied(m.op))  \* @guard receipt -> AtMostOnce
  /\ m.tag.live = there.live        \* @guard absent -> NeverUnseen
  /\ m.tag.v = there.v              \* @guard version -> NeverUnseen
  /\ m.tag.data = there.data        \* @guard data -> NeverUnseen
  /\ judged' = m
  /\ UNCHANGED <<there, remembers, pc, read, plan, sent, sends, again, log, blind, lied>>

\* Its answer is heard or lost.
Replace ==
  /\ judged # NoPlan
  /\ there' = judged.new
  /\ log' = Append(log, [op |-> judged.op, saw |-> judged.saw, over |-> there])
  /\ \E heard \in BOOLEAN :
       /\ (heard => Waits(judged))
       /\ pc' = IF heard THEN [pc EXCEPT ![judged.op] = "done"] ELSE pc
       /\ plan' = IF heard THEN [plan EXCEPT ![judged.op] = NoPlan] ELSE plan
       /\ again' = IF heard THEN again ELSE again \cup {judged.op}
  /\ judged' = NoPlan
  /\ UNCHANGED <<remembers, read, sent, sends, blind, lied>>

\* Something else is there: the process reads again.
Refuse(m) ==
  /\ Waits(m)
  /\ m.tag # there
  /\ ~(remembers /\ Applied(m.op))      \* @guard replay -> RefusalMeansNothing
  /\ remembers \/ ~(m.op \in again)     \* @guard doubt -> RefusalMeansNothing
  /\ pc' = [pc EXCEPT ![m.op] = "ready"]
  /\ plan' = [plan EXCEPT ![m.op] = NoPlan]
  /\ sent' = IF remembers THEN sent ELSE sent \ {m}
  /\ lied' = (lied \/ Applied(m.op))
  /\ UNCHANGED <<there, remembers, read, sends, again, judged, log, blind>>

\* The receipt is there: the answer of that time.
Replay(m) ==
  /\ Waits(m)
  /\ remembers
  /\ Applied(m.op)                      \* @guard known -> AcknowledgedIsKept
  /\ pc' = [pc EXCEPT ![m.op] = "done"]
  /\ plan' = [plan EXCEPT ![m.op] = NoPlan]
  /\ UNCHANGED <<there, remembers, read, sent, sends, again, judged, log, blind, lied>>

\* Something else is there, and it may have come after the change, which was sent before.
GiveUp(m) ==
  /\ Waits(m)
  /\ m.op \in again
  /\ ~remembers
  /\ m.tag # there
  /\ pc' = [pc EXCEPT ![m.op] = "unsure"]
  /\ plan' = [plan EXCEPT ![m.op] = NoPlan]
  /\ UNCHANGED <<there, remembers, read, sent, sends, again, judged, log, blind, lied>>

Next ==
  \/ Blind
  \/ \E p \in Procs : Read(p) \/ Send(p)
  \/ \E m \in sent : Judge(m) \/ Refuse(m) \/ Replay(m) \/ GiveUp(m)
  \/ Replace

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ blind \in 0..MaxBlind
  /\ sends \in 0..MaxSends
  /\ Len(log) <= MaxCommits
  /\ \A p \in Procs : pc[p] \in {"ready", "thinks", "waits", "done", "unsure"}
  /\ \A p \in Procs : ((pc[p] = "waits") <=> (plan[p] # NoPlan))
  /\ (judged # NoPlan) \/ there.v <= MaxSends + 1

\* Each guarded write replaced exactly what it was computed from.
NeverUnseen == \A i \in 1..Len(log) : log[i].saw = log[i].over
\* Where receipts are kept.  Elsewhere a change that was sent again is applied again, if somebody has put
\* back, byte by byte, what it was computed from.
AtMostOnce == (remembers => (\A i, j \in 1..Len(log) : ((log[i].op = log[j].op) => (i = j))))
\* Who was told "done" was applied; who was told of a refusal was not.
AcknowledgedIsKept == \A p \in Procs : ((pc[p] = "done") => Applied(p))
RefusalMeansNothing == ~lied
================================================================================
