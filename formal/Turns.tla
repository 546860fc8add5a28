-------------------------------- MODULE Turns ---------------------------------
\* Promise: an update thinks at once; after a conflict it takes its place in a first-come queue.
\* While it thinks in its turn no other update beats it, and the second time nobody at all does.
\* Turns decide who thinks next, never what may be written: that stays the version's work.
\*
\* One key.  Each of Procs runs one update: it thinks on what it read, commits, and joins the
\* queue where that was refused.  Others write bluntly, from a record in hand and without a queue.
\* Any ticket may expire at any moment, also of a process that thinks: it may be dead or asleep.
\*
\* @code Start core/update.py:update backends/sqlite/log.py:load
\* @code Start backends/postgres/functions.sql:load backends/redis/load.lua
\* @code Commit core/write.py:put backends/sqlite/commit.py:Step.commit
\* @code Commit backends/sqlite/commit.py:Step._moved backends/postgres/commit.sql:commit_one
\* @code Commit backends/postgres/judge.sql:judge_turns backends/redis/commit.lua:commit
\* @code Give backends/sqlite/commit.py:Step._not_in_turn backends/postgres/judge.sql:judge_turns
\* @code Give core/turn.py:take_turn backends/sqlite/turns.py:take
\* @code Give backends/postgres/turns.sql:take_turn backends/redis/turn.lua
\* @code Beaten core/turn.py:renewal core/turn.py:kept backends/sqlite/commit.py:Step._moved
\* @code Begin core/turn.py:take_turn backends/sqlite/turns.py:_place
\* @code Begin backends/postgres/turns.sql:place backends/redis/turn.lua
\* @code Blunt core/write.py:write_record backends/sqlite/commit.py:Step._not_in_turn
\* @code Blunt backends/postgres/judge.sql:judge_turns backends/redis/commit.lua:commit
\* @world Pass the time of a ticket is up: it is as if it had never been
EXTENDS Naturals, FiniteSets

CONSTANTS
  Procs,
  MaxBlunt,
  MaxTickets

VARIABLES
  ver,     \* version of the key
  blunt,   \* how many of them were blunt writes
  ticket,  \* per process: its place in the queue, 0 for none
  firm,    \* processes before whose turn everybody waits
  joined,  \* how many tickets were ever given
  pc,      \* per process: "idle", "thinks", "waits", "turn" (thinks in its turn) or "done"
  base,    \* per process: the version that it thinks on
  bad      \* what must not happen and has happened

vars == <<ver, blunt, ticket, firm, joined, pc, base, bad>>

Init ==
  /\ ver = 0
  /\ blunt = 0
  /\ ticket = [p \in Procs |-> 0]
  /\ firm = {}
  /\ joined = 0
  /\ pc = [p \in Procs |-> "idle"]
  /\ base = [p \in Procs |-> 0]
  /\ bad = {}

IsFirst(p) == ticket[p] > 0 /\ (\A q \in Procs : (ticket[q] = 0 \/ ticket[q] >= ticket[p]))
InTurn(p)  == pc[p] = "turn" /\ ticket[p] > 0
Note(x, y) == bad \cup (IF x THEN {y} ELSE {})

\* Read and begin to think; where there is a queue, stand in it first.
Start(p) ==
  /\ pc[p] = "idle"
  /\ \E q \in BOOLEAN :
       /\ (q = (\E x \in Procs : ticket[x] > 0))
       /\ (q => (joined < MaxTickets))
       /\ pc' = [pc EXCEPT ![p] = IF q THEN "waits" ELSE "thinks"]
       /\ ticket' = IF q THEN [ticket EXCEPT ![p] = joined + 1] ELSE ticket
       /\ joined' = IF q THEN joined + 1 ELSE joined
  /\ base' = [base EXCEPT ![p] = ver]
  /\ UNCHANGED <<ver, blunt, firm, bad>>

\* Where p must give way: another ticket is first, and a plan of an update yields to it.
GivesWay(p) == \E q \in Procs \ {p} : IsFirst(q)

Commit(p) ==
  /\ pc[p] \in {"thinks", "turn"}
  /\ base[p] = ver                      \* @guard version -> NoLostUpdate
  /\ ~GivesWay(p)                       \* @guard yields -> NotBeatenByUpdates
  /\ ver' = ver + 1
  /\ pc' = [pc EXCEPT ![p] = "done"]
  /\ ticket' = [ticket EXCEPT ![p] = 0]
  /\ firm' = firm \ {p}
  /\ bad' = Note(base[p] # ver, "lost update")
            \cup Note((\E q \in Procs \ {p} : (InTurn(q) /\ base[q] = ver)), "beaten")
  /\ UNCHANGED <<blunt, joined, base>>

\* Refused without a turn (the version moved, or another has the turn): join the queue at its end.
Give(p) ==
  /\ pc[p] = "thinks" \/ (pc[p] \in {"turn", "waits"} /\ ticket[p] = 0)
  /\ ((pc[p] # "waits") => (base[p] # ver \/ GivesWay(p)))
  /\ joined < MaxTickets
  /\ ticket' = [ticket EXCEPT ![p] = joined + 1]
  /\ joined' = joined + 1
  /\ pc' = [pc EXCEPT ![p] = "waits"]
  /\ UNCHANGED <<ver, blunt, firm, base, bad>>

\* Refused in its turn, by a blunt write: from here on everybody waits.  It thinks again.
Beaten(p) ==
  /\ InTurn(p)
  /\ base[p] # ver
  /\ firm' = firm \cup {p}
  /\ base' = [base EXCEPT ![p] = ver]
  /\ UNCHANGED <<ver, blunt, ticket, joined, pc, bad>>

\* Nobody is ahead any more: the turn comes with the fresh record.
Begin(p) ==
  /\ pc[p] = "waits"
  /\ ticket[p] > 0
  /\ IsFirst(p)                         \* @guard first -> OneInTurn
  /\ pc' = [pc EXCEPT ![p] = "turn"]
  /\ base' = [base EXCEPT ![p] = ver]
  /\ UNCHANGED <<ver, blunt, ticket, firm, joined, bad>>

\* A write that yields to nobody, from the record as it is.
Blunt ==
  /\ blunt < MaxBlunt
  /\ ~(\E q \in firm : IsFirst(q))      \* @guard firm -> SecondThoughtCounts
  /\ ver' = ver + 1
  /\ blunt' = blunt + 1
  /\ UNCHANGED <<ticket, firm, joined, pc, base, bad>>

Pass(p) ==
  /\ ticket[p] > 0
  /\ ticket' = [ticket EXCEPT ![p] = 0]
  /\ firm' = firm \ {p}
  /\ UNCHANGED <<ver, blunt, joined, pc, base, bad>>

Next ==
  \/ \E p \in Procs : Start(p) \/ Commit(p) \/ Give(p) \/ Beaten(p) \/ Begin(p) \/ Pass(p)
  \/ Blunt

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ ver \in 0..(MaxBlunt + Cardinality(Procs))
  /\ \A p \in Procs : pc[p] \in {"idle", "thinks", "waits", "turn", "done"}
  /\ \A p \in Procs : (ticket[p] \in 0..MaxTickets)
  /\ firm \subseteq Procs

\* No update was computed from another version than the one that it replaced.
NoLostUpdate == "lost update" \notin bad
\* No update was applied while another one, whose ticket lives, was thinking in its turn.
NotBeatenByUpdates == "beaten" \notin bad
\* Of those whose tickets live, one thinks in its turn.
OneInTurn == \A p, q \in Procs : ((InTurn(p) /\ InTurn(q)) => (p = q))
\* Who thinks a second time in its turn, and keeps its ticket, will not be refused.
SecondThoughtCounts == \A p \in firm : ((InTurn(p)) => (base[p] = ver))
===============================================================================
