----------------------------- MODULE Transactions -----------------------------
\* Promise: transactions are serializable.  No lost update, no read skew, no write skew, no phantom.
\*
\* Two records, x and y, that are there, and a prefix, under which nothing is yet.  A transaction
\* reads one thing after the other, thinks, and commits: everything that it read is an expectation,
\* the keys that a scan returned and those it did not.  One that only looked commits nothing.
\* The invariants know only what was read and written, not how it was checked.
\*
\* @code Begin core/transact.py:transact
\* @code Load core/transact.py:Transaction.load core/transact.py:Transaction._moved
\* @code Load backends/sqlite/log.py:load backends/postgres/functions.sql:load
\* @code Load backends/redis/load.lua
\* @code Doomed core/transact.py:Transaction._moved core/update.py:final_refusal
\* @code Look core/transact.py:_commit_thought core/transact.py:commit_transaction
\* @code Commit core/transact.py:Transaction.plan backends/sqlite/commit.py:Step._moved
\* @code Commit backends/sqlite/commit.py:Step._scan_moved backends/postgres/judge.sql:judge
\* @code Commit backends/postgres/judge.sql:judge_scans backends/redis/commit.lua:scan_moved
\* @code Commit backends/redis/commit.lua:commit
\* @code Refused backends/sqlite/commit.py:Step.judge backends/postgres/judge.sql:judge
\* @code Refused backends/redis/commit.lua:moved
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Agents,
  Programs,
  MaxCommits

VARIABLES
  ver,   \* per key: its version
  prog,  \* per agent: what its transaction does, or "none"
  got,   \* per agent and key: the version that it read; under the prefix, of what is not there, too
  log    \* the committed transactions: versions read, versions made

vars == <<ver, prog, got, log>>

Records == {"x", "y"}
Prefix  == {"p/1", "p/2"}
Keys    == Records \cup Prefix
Unread  == 9
Nothing == [k \in Keys |-> Unread]

\* What a transaction reads and writes.
Needs(a) == IF prog[a] \in {"add 1", "add 2"} THEN Prefix ELSE Records
Writes(a) == {k \in Keys : <<prog[a], k>> \in
                {<<"set x", "x">>, <<"set y", "y">>, <<"add 1", "p/1">>, <<"add 2", "p/2">>}}

Init ==
  /\ ver = [k \in Keys |-> IF k \in Records THEN 1 ELSE 0]
  /\ prog = [a \in Agents |-> "none"]
  /\ got = [a \in Agents |-> Nothing]
  /\ log = <<>>

Read(a)     == {k \in Keys : got[a][k] # Unread}
Ready(a)    == prog[a] # "none" /\ Read(a) = Needs(a)
\* What a scan returned, and would return now.
Then(a)     == {<<k, got[a][k]>> : k \in {j \in Prefix \cap Read(a) : got[a][j] > 0}}
Now         == {<<k, ver[k]>> : k \in {j \in Prefix : ver[j] > 0}}
SameScan(a) == Prefix \subseteq Read(a) /\ Then(a) = Now
Same(who, these) == \A k \in these \cap Read(who) : got[who][k] = ver[k]
Unmoved(a)  == Same(a, Records) /\ (SameScan(a) \/ Prefix \cap Read(a) = {})

Begin(a) ==
  /\ prog[a] = "none"
  /\ Len(log) < MaxCommits
  /\ \E does \in Programs : prog' = [prog EXCEPT ![a] = does]
  /\ UNCHANGED <<ver, got, log>>

\* Read one more record, or scan.  Where the log has moved since, all that was read is read again.
Load(a) ==
  /\ prog[a] # "none"
  /\ \E K \in {{"x"}, {"y"}, Prefix} :
       /\ K \subseteq Needs(a) \ Read(a)
       /\ got' = [got EXCEPT ![a] = [k \in Keys |-> IF k \in K THEN ver[k] ELSE got[a][k]]]
  /\ Unmoved(a)                                     \* @guard moment -> NoReadSkew
  /\ UNCHANGED <<ver, prog, log>>

Ended(a) ==
  /\ prog' = [prog EXCEPT ![a] = "none"]
  /\ got' = [got EXCEPT ![a] = Nothing]

\* It found while reading that it could only be refused.
Doomed(a) ==
  /\ prog[a] # "none"
  /\ ~Ready(a)
  /\ ~Unmoved(a)
  /\ Ended(a)
  /\ UNCHANGED <<ver, log>>

Made(a) == [k \in Keys |-> IF k \in Writes(a) THEN ver[k] + 1 ELSE 0]

\* It only looked: there is nothing to send.
Look(a) ==
  /\ Ready(a)
  /\ Writes(a) = {}
  /\ log' = Append(log, [read |-> got[a], made |-> Made(a)])
  /\ Ended(a)
  /\ UNCHANGED <<ver>>

Commit(a) ==
  /\ Ready(a)
  /\ Writes(a) # {}
  /\ Same(a, Writes(a))                             \* @guard written -> NoLostUpdate
  /\ Same(a, Records \ Writes(a))                   \* @guard read -> NoWriteSkew
  /\ (SameScan(a) \/ Prefix \cap Read(a) = {})      \* @guard scan -> NoPhantom
  /\ ver' = [k \in Keys |-> IF k \in Writes(a) THEN ver[k] + 1 ELSE ver[k]]
  /\ log' = Append(log, [read |-> got[a], made |-> Made(a)])
  /\ Ended(a)

Refused(a) ==
  /\ Ready(a)
  /\ Writes(a) # {}
  /\ ~Unmoved(a)
  /\ Ended(a)
  /\ UNCHANGED <<ver, log>>

Next ==
  \/ \E a \in Agents : Begin(a) \/ Load(a) \/ Doomed(a) \/ Look(a) \/ Commit(a) \/ Refused(a)

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ \A k \in Keys : (ver[k] \in 0..(MaxCommits + Cardinality(Agents) + 1))
  /\ \A a \in Agents : (prog[a] \in Programs \cup {"none"})

Ends == 1..Len(log)
Reads(one, key) == log[one].read[key] # Unread
Wrote(one, key) == log[one].made[key] > 0
\* One transaction did not see what the other made of a key, so that it comes before it.
Missed(one, other, key) ==
  /\ one # other
  /\ Reads(one, key)
  /\ Wrote(other, key)
  /\ log[one].read[key] < log[other].made[key]

\* Nobody wrote over what he had not seen.
NoLostUpdate ==
  \A i, j \in Ends : \A k \in Keys :
    ~(Wrote(i, k) /\ Wrote(j, k) /\ Missed(i, j, k) /\ Missed(j, i, k))
\* Version of a key after so many transactions.
After(key, n) == (IF key \in Records THEN 1 ELSE 0) + Cardinality({i \in 1..n : Wrote(i, key)})
\* What a transaction read was all there at one moment.
NoReadSkew ==
  \A i \in Ends : \E moment \in 0..Len(log) :
    \A k \in Keys : (~Reads(i, k) \/ log[i].read[k] = After(k, moment))
\* Two that each missed what the other did, to different keys.
Skew(K) == \E i, j \in Ends : \E k, l \in K : (k # l /\ Missed(i, j, k) /\ Missed(j, i, l))
NoWriteSkew == ~Skew(Records)
NoPhantom   == ~Skew(Prefix)
\* One must come before the other in any serial order; in one, nobody comes before himself.
Before(one, other) ==
  \E k \in Keys :
    \/ Missed(one, other, k)
    \/ Wrote(one, k) /\ Wrote(other, k) /\ log[one].made[k] < log[other].made[k]
    \/ Wrote(one, k) /\ Reads(other, k) /\ one # other /\ log[other].read[k] >= log[one].made[k]
Serializable ==
  /\ \A i, j \in Ends : ~(Before(i, j) /\ Before(j, i))
  /\ \A i, j, m \in Ends : ~(Before(i, j) /\ Before(j, m) /\ Before(m, i))
===============================================================================
