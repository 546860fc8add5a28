----------------------------- MODULE ConsumerGroup -----------------------------
\* Promise: every entry reaches a consumer until one has acknowledged it; the entries of one key
\* are handled in order, and of the living one consumer at a time has those of a key.
\*
\* The entries of a log are dealt out.  What was dealt and is not acknowledged is pending with one
\* consumer, all pending entries of a key with the same one.  A consumer may be taken for dead at
\* any moment, rightly or not; others then claim what is pending with it.  It may wake up and go on
\* with what it has in hand, and its acknowledgements may arrive late and again.  A consumer that
\* asks anew (`resume`) begins with what is pending with it.  Not modelled: an acknowledgement that
\* arrives after its consumer has asked anew.  The code refuses it, because it names the delivery that
\* it is about (tests/contract/test_consumer_groups.py: test_a_late_ack_leaves_what_is_being_handled_again).
\*
\* @code Deal backends/sqlite/groups.py:read backends/sqlite/groups.py:_deal
\* @code Deal backends/postgres/groups.sql:read_group backends/postgres/groups.sql:deal
\* @code Deal backends/redis/read_group.lua:deal backends/redis/read_group.lua:deal_more
\* @code Deliver streams/group.py:take backends/sqlite/groups.py:_delivered
\* @code Deliver backends/postgres/groups.sql:group_delivered backends/redis/read_group.lua:deliver
\* @code Handle streams/groups.py:Group.take streams/groups.py:Group.ack
\* @code Ack streams/group.py:acknowledge backends/sqlite/groups.py:acknowledge
\* @code Ack backends/postgres/groups.sql:ack_group backends/redis/ack_group.lua:done
\* @code Claim backends/sqlite/groups.py:_claim backends/postgres/groups.sql:claim_keys
\* @code Claim backends/redis/read_group.lua:claim
\* @code Resume streams/group.py:take backends/sqlite/groups.py:read
\* @code Resume backends/redis/read_group.lua:undeliver
\* @world Die no sign of life has come for as long as the ttl
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Consumers,
  Length,
  OfL,
  MaxDeaths

VARIABLES
  cursor,   \* the log is dealt up to here
  holder,   \* per position: the consumer that it is pending with, "none" or "done"
  given,    \* positions that were delivered since they came to their holder
  dead,     \* consumers that are taken for dead
  deaths,   \* how often one was
  hand,     \* per consumer: what it has in hand, in order
  revoked,  \* consumers from which somebody has claimed what they have in hand
  acks,     \* acknowledgements that were sent: consumer and position
  first     \* positions in the order in which they were handled first

vars == <<cursor, holder, given, dead, deaths, hand, revoked, acks, first>>

Positions == 1..Length
KeyOf(n)  == IF n \in OfL THEN "l" ELSE "k"
Done(n)   == \E i \in 1..Len(first) : first[i] = n
Of(k)     == {n \in Positions : KeyOf(n) = k}
Keys      == {KeyOf(n) : n \in Positions}
Pends(c)  == {n \in Positions : holder[n] = c}

Init ==
  /\ cursor = 0
  /\ holder = [n \in Positions |-> "none"]
  /\ given = {}
  /\ dead = {}
  /\ deaths = 0
  /\ hand = [c \in Consumers |-> <<>>]
  /\ revoked = {}
  /\ acks = {}
  /\ first = <<>>

\* The next entry of the log goes to whom others of its key are pending with, or else to the
\* consumer that asks; so it may go to any.
Deal(c) ==
  /\ cursor < Length
  /\ (\A n \in Of(KeyOf(cursor + 1)) : holder[n] \in {c, "none", "done"})  \* @guard holder -> OneHolder
  /\ holder' = [holder EXCEPT ![cursor + 1] = c]
  /\ cursor' = cursor + 1
  /\ UNCHANGED <<given, dead, deaths, hand, revoked, acks, first>>

\* The first entry that waits for a consumer.
Deliver(c) ==
  /\ c \notin revoked
  /\ \E n \in Pends(c) \ given :
       /\ (\A m \in Pends(c) \ given : m >= n)                      \* @guard order -> InOrder
       /\ hand' = [hand EXCEPT ![c] = Append(hand[c], n)]
       /\ given' = given \cup {n}
  /\ UNCHANGED <<cursor, holder, dead, deaths, revoked, acks, first>>

\* The consumer handles what it has in hand, in order, and then says so.
Handle(c) ==
  /\ hand[c] # <<>>
  /\ first' = IF Done(Head(hand[c])) THEN first ELSE Append(first, Head(hand[c]))
  /\ acks' = acks \cup {<<c, Head(hand[c])>>}
  /\ hand' = [hand EXCEPT ![c] = Tail(hand[c])]
  /\ UNCHANGED <<cursor, holder, given, dead, deaths, revoked>>

\* An acknowledgement arrives, for the first time or again.
Ack(c, n) ==
  /\ holder[n] # "done"
  /\ holder[n] = c                                                  \* @guard owner -> OneAtATime
  /\ holder' = [holder EXCEPT ![n] = "done"]
  /\ UNCHANGED <<cursor, given, dead, deaths, hand, revoked, acks, first>>

Die(c) ==
  /\ c \notin dead
  /\ deaths < MaxDeaths
  /\ dead' = dead \cup {c}
  /\ deaths' = deaths + 1
  /\ UNCHANGED <<cursor, holder, given, hand, revoked, acks, first>>

\* Take the entries of a key over.  They are delivered again, in the log's order.
Claim(c, d) ==
  /\ c # d
  /\ c \notin dead
  /\ d \in dead                                                     \* @guard dead -> LivingAreLeft
  /\ \E k \in Keys : \E taken \in SUBSET (Pends(d) \cap Of(k)) :
       /\ taken # {}
       /\ taken = Pends(d) \cap Of(k)                               \* @guard whole -> OneHolder
       /\ holder' = [n \in Positions |-> IF n \in taken THEN c ELSE holder[n]]
       /\ given' = given \ taken
  /\ revoked' = IF hand[d] = <<>> THEN revoked ELSE revoked \cup {d}
  /\ UNCHANGED <<cursor, dead, deaths, hand, acks, first>>

\* A consumer asks anew, or wakes up and asks for the first time: it lives.
Resume(c) ==
  /\ c \in dead
  /\ dead' = dead \ {c}
  /\ revoked' = revoked \ {c}
  /\ hand' = [hand EXCEPT ![c] = <<>>]
  /\ given' = given \ Pends(c)
  /\ acks' = {a \in acks : a[1] # c}
  /\ UNCHANGED <<cursor, holder, deaths, first>>

Next ==
  \/ \E c \in Consumers : Deal(c) \/ Deliver(c) \/ Handle(c) \/ Die(c) \/ Resume(c)
  \/ \E a \in acks : Ack(a[1], a[2])
  \/ \E c, d \in Consumers : Claim(c, d)

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ cursor \in 0..Length
  /\ \A n \in Positions : (holder[n] \in Consumers \cup {"none", "done"})
  /\ dead \subseteq Consumers

HasOf(c, k) == \E i \in 1..Len(hand[c]) : KeyOf(hand[c][i]) = k

\* What was dealt is pending, or was handled.
NothingLost == \A n \in 1..cursor : (holder[n] \in Consumers \/ (holder[n] = "done" /\ Done(n)))
\* All pending entries of a key are with one consumer.
OneHolder ==
  \A n, m \in Positions :
    ((KeyOf(n) = KeyOf(m) /\ {holder[n], holder[m]} \subseteq Consumers) => (holder[n] = holder[m]))
\* Entries of a key are handled in the log's order.
InOrder ==
  \A i, j \in 1..Len(first) : ((i < j /\ KeyOf(first[i]) = KeyOf(first[j])) => (first[i] < first[j]))
\* Two consumers that nobody has claimed from do not have entries of one key in hand.
OneAtATime ==
  \A x, y \in Consumers \ revoked : \A key \in Keys : (x = y \/ ~HasOf(x, key) \/ ~HasOf(y, key))
\* Nobody claims from the living.
LivingAreLeft == revoked \subseteq dead
===============================================================================
