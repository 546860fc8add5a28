------------------------------- MODULE LogOrder -------------------------------
\* Promise: positions are 1, 2, 3 ... in the order of commits, without gaps; a reader that resumes
\* after position N misses nothing and sees nothing twice, also where it reads one prefix only.
\*
\* A writer's position is allocated inside its transaction, under the row of the space, which stays
\* locked until the commit; a transaction that is rolled back gives it back.  Without that lock it
\* would be a bare sequence.  A reader gets a page of at most Limit entries, and how far that page
\* is complete; it keeps that position with what it has handled, and goes on from it after a crash.
\*
\* @code Allocate backends/sqlite/commit.py:opening backends/sqlite/commit.py:Step._apply
\* @code Allocate backends/postgres/commit.sql:commit backends/postgres/commit.sql:commit_single
\* @code Allocate backends/redis/commit.lua:commit
\* @code Commit backends/sqlite/commit.py:Step.flush backends/postgres/commit.sql:commit
\* @code Commit backends/redis/commit.lua:commit
\* @world Rollback the writer dies, or its transaction is ended
\* @code Look core/read.py:log_page backends/sqlite/log.py:read_log
\* @code Look backends/postgres/functions.sql:read_log backends/redis/log.lua
\* @code Page backends/sqlite/log.py:read_log backends/postgres/functions.sql:read_log
\* @code Page backends/redis/calls.py:_page
\* @world Crash the reader dies with a page that it has not handled, and begins again
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Writers,
  MaxPosition,
  Limit

VARIABLES
  last,     \* the position in the space's row, as whoever holds it sees it
  open,     \* per writer: the position of its transaction, 0 where it has none
  log,      \* committed entries, in the order of commits: position, and whether in the prefix
  pc,       \* of the reader: "rests" or "looks"
  found,    \* positions of the page that it looks at
  moment,   \* how many entries were committed when it looked
  after,    \* the position that it goes on from
  handled   \* the positions that it has handled, in that order

vars == <<last, open, log, pc, found, moment, after, handled>>

Init ==
  /\ last = 0
  /\ open = [w \in Writers |-> 0]
  /\ log = <<>>
  /\ pc = "rests"
  /\ found = {}
  /\ moment = 0
  /\ after = 0
  /\ handled = <<>>

Allocate(w) ==
  /\ open[w] = 0
  /\ last < MaxPosition
  /\ (\A v \in Writers : open[v] = 0)       \* @guard row -> NoGaps
  /\ last' = last + 1
  /\ open' = [open EXCEPT ![w] = last + 1]
  /\ UNCHANGED <<log, pc, found, moment, after, handled>>

Commit(w) ==
  /\ open[w] > 0
  /\ \E ours \in BOOLEAN : log' = Append(log, [at |-> open[w], ours |-> ours])
  /\ open' = [open EXCEPT ![w] = 0]
  /\ UNCHANGED <<last, pc, found, moment, after, handled>>

\* A position that is not given back is burnt.
Burnt(w) ==
  /\ open[w] > 0
  /\ last # open[w]                         \* @guard undone -> NoGaps

Rollback(w) ==
  /\ open[w] > 0
  /\ last' = IF Burnt(w) THEN last ELSE last - 1
  /\ open' = [open EXCEPT ![w] = 0]
  /\ UNCHANGED <<log, pc, found, moment, after, handled>>

Ours       == {log[i].at : i \in {j \in 1..Len(log) : log[j].ours}}
FirstOf(S) == {n \in S : Cardinality({m \in S : m < n}) < Limit}
Top(S)     == {n \in S : \A m \in S : m <= n}
End        == {log[i].at : i \in 1..Len(log)} \cup {0}

IsNext(n) ==
  /\ n \in Ours
  /\ n > after                               \* @guard after -> NothingTwice

\* The entries of a page ...
Look ==
  /\ pc = "rests"
  /\ pc' = "looks"
  /\ found' = FirstOf({n \in 1..MaxPosition : IsNext(n)})
  /\ moment' = Len(log)
  /\ UNCHANGED <<last, open, log, after, handled>>

\* A page that is not full reaches to the end of the log.
Reaches ==
  /\ pc = "looks"
  /\ Cardinality(found) < Limit             \* @guard full -> NothingMissed

\* ... and where the log ends, in the same snapshot.  What was found is handled, the lowest first,
\* and the new position is kept with it.
Page ==
  /\ pc = "looks"
  /\ moment = Len(log)                      \* @guard snapshot -> NothingMissed
  /\ \E order \in [1..Cardinality(found) -> found] :
       /\ (\A i, j \in 1..Cardinality(found) : ((i < j) => (order[i] < order[j])))
       /\ handled' = handled \o order
  /\ \E upto \in Top(IF Reaches THEN End ELSE found) : after' = upto
  /\ pc' = "rests"
  /\ found' = {}
  /\ moment' = 0
  /\ UNCHANGED <<last, open, log>>

Crash ==
  /\ pc = "looks"
  /\ pc' = "rests"
  /\ found' = {}
  /\ moment' = 0
  /\ UNCHANGED <<last, open, log, after, handled>>

Next ==
  \/ \E w \in Writers : Allocate(w) \/ Commit(w) \/ Rollback(w)
  \/ Look
  \/ Page
  \/ Crash

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ last \in 0..MaxPosition
  /\ after \in 0..MaxPosition
  /\ \A w \in Writers : (open[w] \in 0..MaxPosition)

NoGaps == \A i \in 1..Len(log) : log[i].at = i
NothingTwice == \A i, j \in 1..Len(handled) : ((handled[i] = handled[j]) => (i = j))
InOrder == \A i, j \in 1..Len(handled) : ((i < j) => (handled[i] <= handled[j]))
\* Everything up to the position that it goes on from was handled.
NothingMissed == \A n \in Ours : ((n <= after) => (\E i \in 1..Len(handled) : handled[i] = n))
===============================================================================
