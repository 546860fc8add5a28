------------------------------ MODULE Coordinator ------------------------------
\* Promise: each contribution is in the shared value exactly once, whichever coordinator dies or
\* is replaced when, and whatever others write to the value meanwhile.
\*
\* Contributions are entries 1..Length of the log; those of Twins say the same thing.  Who holds
\* the lease reads what comes after the cursor, merges it into the value as it found it, and
\* commits, in one plan, the new value, the new cursor and what it has seen, at its epoch.  One
\* whose answer was lost goes on from the state that it knows, under a new operation id; one that
\* was replaced may sleep and send its plan then.
\*
\* @code TakeOver streams/coordinators.py:Coordinator.catch_up streams/coordinator.py:begin
\* @code TakeOver backends/sqlite/fences.py:take_lease backends/postgres/fences.sql:take_lease
\* @code TakeOver backends/redis/lease.lua:set_lease
\* @code Merge streams/coordinator.py:advance streams/coordinator.py:_Batch.merge
\* @code Commit streams/coordinator.py:_plan backends/sqlite/commit.py:Step.commit
\* @code Commit backends/postgres/commit.sql:commit_one backends/redis/commit.lua:commit
\* @code Moved streams/coordinator.py:advance backends/sqlite/commit.py:Step._moved
\* @code Fenced streams/coordinators.py:Coordinator.__iter__ backends/sqlite/commit.py:Step._fenced
\* @world Edit somebody else writes the shared value
EXTENDS Naturals

CONSTANTS
  Coordinators,
  Length,
  Twins,
  MaxEpoch,
  MaxEdits

VARIABLES
  epoch,   \* of the key that is leased
  leader,  \* who was granted the lease last
  cursor,  \* the state: what is merged reaches up to here
  state,   \* version of the state's record
  value,   \* the shared value: how often each contribution is in it; at 0, edits of others
  ver,     \* version of the value's record
  seen,    \* contributions that were handled, as far as they can come twice
  edits,   \* how many edits there were
  pc,      \* per coordinator: "off", "leads" or "merges"
  knows,   \* per coordinator: epoch, cursor and version of the state that it goes on from
  plan,    \* per coordinator: what it is about to commit
  stale    \* whether one that was replaced has committed

vars == <<epoch, leader, cursor, state, value, ver, seen, edits, pc, knows, plan, stale>>

Empty  == [n \in 0..Length |-> 0]
NoPlan == [upto |-> 0, value |-> Empty, ver |-> 0]

Init ==
  /\ epoch = 0
  /\ leader = "none"
  /\ cursor = 0
  /\ state = 0
  /\ value = Empty
  /\ ver = 0
  /\ seen = {}
  /\ edits = 0
  /\ pc = [c \in Coordinators |-> "off"]
  /\ knows = [c \in Coordinators |-> [e |-> 0, cursor |-> 0, state |-> 0]]
  /\ plan = [c \in Coordinators |-> NoPlan]
  /\ stale = FALSE

Same(n, m) == n = m \/ {n, m} \subseteq Twins

\* The lease comes with the record of the state.
TakeOver(c) ==
  /\ epoch < MaxEpoch
  /\ epoch' = epoch + 1
  /\ leader' = c
  /\ knows' = [knows EXCEPT ![c] = [e |-> epoch + 1, cursor |-> cursor, state |-> state]]
  /\ plan' = [plan EXCEPT ![c] = NoPlan]
  /\ pc' = [pc EXCEPT ![c] = "leads"]
  /\ UNCHANGED <<cursor, state, value, ver, seen, edits, stale>>

\* Whether a contribution is merged, and not passed over as a duplicate.
Counts(n, low) ==
  /\ n > low
  /\ (\A s \in seen : ~Same(n, s))                          \* @guard seen -> CountedOnce
  /\ (\A b \in (low + 1)..Length : (b >= n \/ ~Same(n, b)))  \* @guard batch -> CountedOnce

\* Read the next contributions, the value, and what was seen before; merge.
Merge(c) ==
  /\ pc[c] = "leads"
  /\ \E upto \in (knows[c].cursor + 1)..Length :
       plan' = [plan EXCEPT ![c] = [upto |-> upto, ver |-> ver, value |-> [n \in 0..Length |->
         IF n <= upto /\ Counts(n, knows[c].cursor) THEN value[n] + 1 ELSE value[n]]]]
  /\ pc' = [pc EXCEPT ![c] = "merges"]
  /\ UNCHANGED <<epoch, leader, cursor, state, value, ver, seen, edits, knows, stale>>

\* The plan is judged, and all of it applied.  Where the answer is lost, the coordinator goes on
\* from the state that it knows.
Commit(c) ==
  /\ pc[c] = "merges"
  /\ knows[c].e = epoch                                      \* @guard epoch -> ReplacedWritesNothing
  /\ knows[c].state = state                                  \* @guard state -> CountedOnce
  /\ plan[c].ver = ver                                       \* @guard value -> EditsAreKept
  /\ \E parts \in SUBSET {"state", "value", "seen"} :
       /\ parts = {"state", "value", "seen"}                 \* @guard together -> NothingLost
       /\ cursor' = IF "state" \in parts THEN plan[c].upto ELSE cursor
       /\ state' = IF "state" \in parts THEN state + 1 ELSE state
       /\ value' = IF "value" \in parts THEN plan[c].value ELSE value
       /\ ver' = IF "value" \in parts THEN ver + 1 ELSE ver
       /\ seen' = IF "seen" \in parts THEN 1..plan[c].upto ELSE seen
  /\ \E heard \in BOOLEAN :
       knows' = IF heard
                THEN [knows EXCEPT ![c] = [e |-> epoch, cursor |-> plan[c].upto, state |-> state + 1]]
                ELSE knows
  /\ plan' = [plan EXCEPT ![c] = NoPlan]
  /\ pc' = [pc EXCEPT ![c] = "leads"]
  /\ stale' = (stale \/ c # leader)
  /\ UNCHANGED <<epoch, leader, edits>>

\* The value has moved: merge into the fresh one.
Moved(c) ==
  /\ pc[c] = "merges"
  /\ knows[c].e = epoch
  /\ plan[c].ver # ver
  /\ plan' = [plan EXCEPT ![c] = NoPlan]
  /\ pc' = [pc EXCEPT ![c] = "leads"]
  /\ UNCHANGED <<epoch, leader, cursor, state, value, ver, seen, edits, knows, stale>>

\* Another one was granted the lease, or the state is not the one that it knows: it stops.
Fenced(c) ==
  /\ pc[c] = "merges"
  /\ ~(knows[c].e = epoch /\ knows[c].state = state)
  /\ plan' = [plan EXCEPT ![c] = NoPlan]
  /\ pc' = [pc EXCEPT ![c] = "off"]
  /\ UNCHANGED <<epoch, leader, cursor, state, value, ver, seen, edits, knows, stale>>

Edit ==
  /\ edits < MaxEdits
  /\ edits' = edits + 1
  /\ value' = [value EXCEPT ![0] = value[0] + 1]
  /\ ver' = ver + 1
  /\ UNCHANGED <<epoch, leader, cursor, state, seen, pc, knows, plan, stale>>

Next ==
  \/ \E c \in Coordinators : TakeOver(c) \/ Merge(c) \/ Commit(c) \/ Moved(c) \/ Fenced(c)
  \/ Edit

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ epoch \in 0..MaxEpoch
  /\ cursor \in 0..Length
  /\ \A c \in Coordinators : (knows[c].cursor \in 0..Length /\ plan[c].upto \in 0..Length)

\* A contribution is not in the value twice, and neither is its twin.
CountedOnce ==
  /\ \A n \in 1..Length : value[n] <= 1
  /\ \A n, m \in 1..Length : (n = m \/ ~Same(n, m) \/ value[n] + value[m] <= 1)
\* What the cursor has passed is in the value, itself or its twin.
NothingLost == \A n \in 1..cursor : (\E m \in 1..Length : (Same(n, m) /\ value[m] >= 1))
EditsAreKept == value[0] = edits
ReplacedWritesNothing == ~stale
================================================================================
