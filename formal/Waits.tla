-------------------------------- MODULE Waits ---------------------------------
\* Promise: nobody waits forever for what others hold.  Of those who wait for each other in a cycle,
\* the one who began to wait last is refused, and nobody else is; the others get what they wait for.
\*
\* Each of Procs takes keys (leases, or turns), one after the other or several in one step, in any
\* order, and holds what it has meanwhile.  Whoever cannot have them at once stands in the queues of
\* all of them, with one ticket.  Whoever is refused gives up everything, and begins anew.
\*
\* @code Take core/lease.py:_take backends/sqlite/fences.py:take_lease
\* @code Take backends/postgres/fences.sql:take_lease backends/redis/lease.lua:is_held
\* @code Ask core/turn.py:take_turn core/lease.py:_take backends/holder.py:with_held
\* @code Ask backends/sqlite/turns.py:_join backends/postgres/turns.sql:take_turn backends/redis/turn.lua
\* @code Grant backends/sqlite/turns.py:_ahead backends/sqlite/fences.py:take_lease
\* @code Grant backends/postgres/turns.sql:place backends/postgres/fences.sql:take_lease
\* @code Grant backends/redis/turn.lua:count_ahead backends/redis/lease.lua:is_held
\* @code Refuse core/refusals.py:deadlock backends/sqlite/turns.py:cycle_of backends/sqlite/turns.py:_edges
\* @code Refuse backends/postgres/turns.sql:cycle backends/postgres/turns.sql:waits_of
\* @code Refuse backends/redis/turn.lua:cycle backends/redis/turn.lua:waits_of
\* @code Release core/lease.py:release_lease backends/sqlite/fences.py:drop_lease
\* @code Release backends/postgres/fences.sql:drop_lease backends/redis/drop_lease.lua
EXTENDS Naturals, FiniteSets

CONSTANTS
  Procs,
  Keys,
  MaxTickets

VARIABLES
  holds,   \* per process: the keys that it has
  wants,   \* per process: the keys that it waits for, {} where it does not wait
  ticket,  \* per process: its place in the queues, 0 for none
  joined,  \* how many tickets were ever given
  bad      \* what must not happen and has happened

vars == <<holds, wants, ticket, joined, bad>>

Init ==
  /\ holds = [p \in Procs |-> {}]
  /\ wants = [p \in Procs |-> {}]
  /\ ticket = [p \in Procs |-> 0]
  /\ joined = 0
  /\ bad = {}

Asked == (SUBSET Keys) \ {{}}
Note(x, y) == bad \cup (IF x THEN {y} ELSE {})

Ahead(key, n) == {o \in Procs \ {n} :
                    key \in wants[o] /\ (ticket[n] = 0 \/ ticket[o] < ticket[n])}
Free(ks, by) == \A k \in ks : (Ahead(k, by) = {} /\ (\A h \in Procs : k \notin holds[h]))
IsFirst(f, of) == of \in wants[f] /\ Ahead(of, f) = {}

\* What is so: p waits for q, who has one of the keys or stands before it.
Waits(a, b) ==
  /\ b # a
  /\ \E w \in wants[a] : (w \in holds[b] \/ b \in Ahead(w, a))

\* What the store looks at: the holder of a key, and whoever is first in its queue.
Follows(a, b) ==
  \/ wants[a] \cap holds[b] # {}        \* @guard holder -> NobodyIsStuck
  \/ \E w \in wants[a] : (b \in Ahead(w, a) /\ IsFirst(b, w)) \* @guard first -> NobodyIsStuck

\* Those who may stand in a cycle of which p is to be refused.
Older(o, n) ==
  /\ o # n
  /\ ticket[o] < ticket[n]              \* @guard youngest -> OlderOnesGoOn

InCycle(p) ==
  \/ \E q \in Procs : (Older(q, p) /\ Follows(p, q) /\ Follows(q, p))
  \/ \E q, r \in Procs :
       (Older(q, p) /\ Older(r, p) /\ Follows(p, q) /\ Follows(q, r) /\ Follows(r, p))

IsInOne(p) ==
  \/ \E q \in Procs : (Waits(p, q) /\ Waits(q, p))
  \/ \E q, r \in Procs : (Waits(p, q) /\ Waits(q, r) /\ Waits(r, p))

IsLastOfOne(p) ==
  \/ \E q \in Procs : (ticket[q] < ticket[p] /\ Waits(p, q) /\ Waits(q, p))
  \/ \E q, r \in Procs :
       (ticket[q] < ticket[p] /\ ticket[r] < ticket[p]
        /\ Waits(p, q) /\ Waits(q, r) /\ Waits(r, p))

\* All of the keys at once: nobody has any, and nobody waits for any.
Take(p) ==
  /\ wants[p] = {}
  /\ \E ks \in Asked :
       /\ ks \cap holds[p] = {}
       /\ Free(ks, p)
       /\ holds' = [holds EXCEPT ![p] = holds[p] \cup ks]
  /\ UNCHANGED <<wants, ticket, joined, bad>>

\* Not at once: join the queues.
Ask(p) ==
  /\ wants[p] = {}
  /\ joined < MaxTickets
  /\ \E ks \in Asked :
       /\ ks \cap holds[p] = {}
       /\ ~Free(ks, p)
       /\ wants' = [wants EXCEPT ![p] = ks]
  /\ ticket' = [ticket EXCEPT ![p] = joined + 1]
  /\ joined' = joined + 1
  /\ UNCHANGED <<holds, bad>>

Grant(p) ==
  /\ wants[p] # {}
  /\ Free(wants[p], p)                  \* @guard free -> OneHolds
  /\ holds' = [holds EXCEPT ![p] = holds[p] \cup wants[p]]
  /\ wants' = [wants EXCEPT ![p] = {}]
  /\ ticket' = [ticket EXCEPT ![p] = 0]
  /\ UNCHANGED <<joined, bad>>

Refuse(p) ==
  /\ wants[p] # {}
  /\ InCycle(p)                         \* @guard cycle -> OnlyCyclesAreRefused
  /\ holds' = [holds EXCEPT ![p] = {}]
  /\ wants' = [wants EXCEPT ![p] = {}]
  /\ ticket' = [ticket EXCEPT ![p] = 0]
  /\ bad' = Note(~IsInOne(p), "refused in vain")
            \cup Note(IsInOne(p) /\ ~IsLastOfOne(p), "refused before its time")
  /\ UNCHANGED <<joined>>

Release(p) ==
  /\ wants[p] = {}
  /\ holds[p] # {}
  /\ holds' = [holds EXCEPT ![p] = {}]
  /\ UNCHANGED <<wants, ticket, joined, bad>>

Next ==
  \/ \E p \in Procs : Take(p) \/ Ask(p) \/ Grant(p) \/ Refuse(p) \/ Release(p)

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ \A p \in Procs : (holds[p] \subseteq Keys /\ wants[p] \subseteq Keys)
  /\ \A p \in Procs : (ticket[p] \in 0..MaxTickets)

\* Nobody has what another one has.
OneHolds == \A p, q \in Procs : (p = q \/ holds[p] \cap holds[q] = {})
\* Nobody was refused who waited in no cycle.
OnlyCyclesAreRefused == "refused in vain" \notin bad
\* Nobody was refused while another one in the cycle had begun to wait later.
OlderOnesGoOn == "refused before its time" \notin bad
\* Whoever waits gets it, or is refused, or somebody who does not wait can still give up what he has.
NobodyIsStuck ==
  \/ \A p \in Procs : (wants[p] = {})
  \/ \E p \in Procs : (wants[p] # {} /\ (Free(wants[p], p) \/ InCycle(p)))
  \/ \E p \in Procs : (wants[p] = {} /\ holds[p] # {})
===============================================================================
