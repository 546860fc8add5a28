-------------------------------- MODULE Leases --------------------------------
\* Promise: nobody else writes a key while its lease lives, and nobody takes a lease that lives;
\* whoever lost a lease writes nothing, and holds an epoch that is behind, so that other systems
\* can tell, too; nobody is fenced by his own request sent twice; nobody passes the queue.
\*
\* One key.  Each of Procs takes the lease once, under a name of its own; its request may arrive
\* again at any time.  There is no clock: a lease or a ticket may expire at any moment, so safety
\* rests on none.  A holder may sleep for as long as it likes, and then still sends its write.
\* The Outsider writes without the lease, from a record that it has read.
\*
\* @code Ask core/lease.py:take_lease core/turn.py:take_turn backends/sqlite/turns.py:take
\* @code Ask backends/postgres/turns.sql:take_turn backends/redis/turn.lua
\* @code Take core/lease.py:_take backends/sqlite/fences.py:take_lease
\* @code Take backends/postgres/fences.sql:take_lease backends/postgres/fences.sql:set_lease
\* @code Take backends/redis/lease.lua:set_lease
\* @code TakeAgain backends/sqlite/fences.py:take_lease backends/postgres/fences.sql:take_lease
\* @code TakeAgain backends/redis/lease.lua
\* @code Renew core/lease.py:renew_lease backends/sqlite/fences.py:take_lease
\* @code Release core/lease.py:release_lease backends/sqlite/fences.py:drop_lease
\* @code Release backends/postgres/fences.sql:drop_lease backends/redis/drop_lease.lua
\* @code Reclaim core/lease.py:reclaim_lease backends/sqlite/fences.py:_reclaim
\* @code Write core/write.py:plan_put backends/sqlite/commit.py:Step._fenced
\* @code Write backends/postgres/judge.sql:judge backends/redis/commit.lua:commit
\* @code Read core/read.py:load backends/sqlite/log.py:load
\* @code Overwrite backends/sqlite/commit.py:Step._leased_away
\* @code Overwrite backends/sqlite/commit.py:Step._written_leased
\* @code Overwrite backends/postgres/judge.sql:judge backends/postgres/commit.sql:apply
\* @code Overwrite backends/redis/commit.lua:commit
\* @world Expire the time of the lease is up, by the store's clock
\* @world Pass the time of a ticket is up: its process is dead, or asleep
EXTENDS Naturals, FiniteSets

CONSTANTS
  Procs,
  Outsider,
  MaxEpoch,
  MaxVersion,
  MaxTickets

VARIABLES
  ver,     \* version of the key
  epoch,   \* epoch of the key
  lease,   \* the store's row: whose request, at which epoch, and whether its time is not up
  ticket,  \* per process: its place in the queue, 0 for none
  joined,  \* how many tickets were ever given
  pc,      \* per process: "idle", "asks", "holds" (or has read) or "done"
  at,      \* per process: the epoch that it goes by
  base,    \* per process: the version that it goes on from
  lost,    \* processes whose lease, or reading, somebody else has revoked
  bad      \* what must not happen and has happened

vars == <<ver, epoch, lease, ticket, joined, pc, at, base, lost, bad>>

All     == Procs \cup {Outsider}
NoLease == [of |-> "none", e |-> 0, alive |-> FALSE]

Init ==
  /\ ver = 0
  /\ epoch = 0
  /\ lease = NoLease
  /\ ticket = [p \in Procs |-> 0]
  /\ joined = 0
  /\ pc = [p \in All |-> "idle"]
  /\ at = [p \in All |-> 0]
  /\ base = [p \in All |-> 0]
  /\ lost = {}
  /\ bad = {}

\* What raises the epoch of the key.
Raises(what) ==
  \/ what = "grant"                     \* @guard grant -> LostIsBehind
  \/ what = "reclaim"                   \* @guard reclaim -> LostIsBehind
  \/ what = "overwrite"                 \* @guard overwrite -> LostIsBehind
Raised(what) == IF Raises(what) THEN epoch + 1 ELSE epoch

Others(p)  == {q \in All \ {p} : pc[q] = "holds"}
Note(x, y) == bad \cup (IF x THEN {y} ELSE {})
Ahead(p)   == \E q \in Procs \ {p} :
                ticket[q] > 0 /\ (ticket[p] = 0 \/ ticket[q] < ticket[p])

\* Ask for the lease, at once or from the end of the queue.
Ask(p) ==
  /\ pc[p] \in {"idle", "asks"}
  /\ \E queues \in BOOLEAN :
       /\ (queues => (ticket[p] = 0 /\ joined < MaxTickets))
       /\ ticket' = IF queues THEN [ticket EXCEPT ![p] = joined + 1] ELSE ticket
       /\ joined' = IF queues THEN joined + 1 ELSE joined
  /\ pc' = [pc EXCEPT ![p] = "asks"]
  /\ UNCHANGED <<ver, epoch, lease, at, base, lost, bad>>

\* A request arrives, for the first time or late, and the lease is granted.  The answer is lost
\* where nobody waits for it any more, or where it is not heard.
Take(p) ==
  /\ pc[p] # "idle"
  /\ epoch < MaxEpoch
  /\ lease.of # p                       \* @guard name -> LeaseIsKept
  /\ ~lease.alive                       \* @guard alive -> NobodyIsRobbed
  /\ ~Ahead(p)                          \* @guard queue -> NobodyPasses
  /\ epoch' = Raised("grant")
  /\ lease' = [of |-> p, e |-> epoch', alive |-> TRUE]
  /\ ticket' = [ticket EXCEPT ![p] = 0]
  /\ \E heard \in BOOLEAN :
       /\ (heard => (pc[p] = "asks"))
       /\ pc' = IF heard THEN [pc EXCEPT ![p] = "holds"] ELSE pc
       /\ at' = IF heard THEN [at EXCEPT ![p] = epoch'] ELSE at
       /\ base' = IF heard THEN [base EXCEPT ![p] = ver] ELSE base
  /\ lost' = lost \cup Others(p)
  /\ bad' = Note(lease.alive /\ lease.of # p, "robbed") \cup Note(Ahead(p), "passed")
  /\ UNCHANGED <<ver, joined>>

\* It was granted to this request before: the same answer.
TakeAgain(p) ==
  /\ pc[p] = "asks"
  /\ lease.of = p
  /\ pc' = [pc EXCEPT ![p] = "holds"]
  /\ at' = [at EXCEPT ![p] = epoch]
  /\ base' = [base EXCEPT ![p] = ver]
  /\ UNCHANGED <<ver, epoch, lease, ticket, joined, lost, bad>>

\* A lease whose time is up goes on where nobody has taken it; one that was lost is over.
Renew(p) ==
  /\ pc[p] = "holds"
  /\ lease' = IF lease.e = at[p] THEN [lease EXCEPT !.alive = TRUE] ELSE lease
  /\ pc' = IF lease.e = at[p] THEN pc ELSE [pc EXCEPT ![p] = "done"]
  /\ UNCHANGED <<ver, epoch, ticket, joined, at, base, lost, bad>>

IsOwn(p) ==
  /\ lease.of # "none"
  /\ lease.e <= at[p]                   \* @guard release -> LeaseIsKept

Release(p) ==
  /\ pc[p] = "holds"
  /\ lease' = IF IsOwn(p) THEN NoLease ELSE lease
  /\ pc' = [pc EXCEPT ![p] = "done"]
  /\ UNCHANGED <<ver, epoch, ticket, joined, at, base, lost, bad>>

Reclaim ==
  /\ epoch < MaxEpoch
  /\ epoch' = Raised("reclaim")
  /\ lease' = [of |-> "reclaimer", e |-> 0, alive |-> FALSE]
  /\ lost' = lost \cup Others("reclaimer")
  /\ UNCHANGED <<ver, ticket, joined, pc, at, base, bad>>

\* What every write is checked for, with the lease or without.
Judged(p) ==
  /\ at[p] = epoch                      \* @guard epoch -> NoZombieWrite
  /\ base[p] = ver

Write(p) ==
  /\ pc[p] = "holds"
  /\ ver < MaxVersion
  /\ Judged(p)
  /\ ver' = ver + 1
  /\ base' = [base EXCEPT ![p] = ver + 1]
  /\ bad' = Note(p \in lost, "zombie")
  /\ UNCHANGED <<epoch, lease, ticket, joined, pc, at, lost>>

Read ==
  /\ pc[Outsider] = "idle"
  /\ pc' = [pc EXCEPT ![Outsider] = "holds"]
  /\ at' = [at EXCEPT ![Outsider] = epoch]
  /\ base' = [base EXCEPT ![Outsider] = ver]
  /\ UNCHANGED <<ver, epoch, lease, ticket, joined, lost, bad>>

\* A write without the lease.  Over a lease whose time is up it takes it away.
Overwrite ==
  /\ pc[Outsider] = "holds"
  /\ ver < MaxVersion
  /\ ~lease.alive                       \* @guard held -> LeaseIsExclusive
  /\ Judged(Outsider)
  /\ ver' = ver + 1
  /\ epoch' = IF lease.of # "none" /\ lease.e = epoch THEN Raised("overwrite") ELSE epoch
  /\ lease' = NoLease
  /\ pc' = [pc EXCEPT ![Outsider] = "done"]
  /\ lost' = lost \cup Others(Outsider)
  /\ bad' = Note(Outsider \in lost, "zombie") \cup Note(lease.alive, "intruded")
  /\ UNCHANGED <<ticket, joined, at, base>>

Expire ==
  /\ lease.alive
  /\ lease' = [lease EXCEPT !.alive = FALSE]
  /\ UNCHANGED <<ver, epoch, ticket, joined, pc, at, base, lost, bad>>

Pass(p) ==
  /\ ticket[p] > 0
  /\ ticket' = [ticket EXCEPT ![p] = 0]
  /\ UNCHANGED <<ver, epoch, lease, joined, pc, at, base, lost, bad>>

Next ==
  \/ \E p \in Procs : Ask(p) \/ Take(p) \/ TakeAgain(p) \/ Renew(p) \/ Release(p) \/ Write(p)
  \/ \E p \in Procs : Pass(p)
  \/ Reclaim
  \/ Read
  \/ Overwrite
  \/ Expire

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ ver \in 0..MaxVersion
  /\ epoch \in 0..(MaxEpoch + 1)
  /\ lease.of \in Procs \cup {"none", "reclaimer"}
  /\ \A p \in All : pc[p] \in {"idle", "asks", "holds", "done"}

\* No write came from a lease or a reading that somebody else has revoked.
NoZombieWrite == "zombie" \notin bad
\* Nobody else wrote while a lease was alive.
LeaseIsExclusive == "intruded" \notin bad
\* Nobody was granted a lease that was alive.
NobodyIsRobbed == "robbed" \notin bad
\* Nobody was granted a lease while another stood before him in the queue.
NobodyPasses == "passed" \notin bad
\* Unless somebody else has revoked it, the store's lease is the one that its holder goes by.
LeaseIsKept ==
  \A p \in Procs : ((pc[p] = "holds" /\ p \notin lost) => (lease.of = p /\ lease.e = at[p]))
\* Whoever lost it holds an epoch that is behind.
LostIsBehind == \A p \in Procs : ((pc[p] = "holds" /\ p \in lost) => (at[p] < epoch))
===============================================================================
