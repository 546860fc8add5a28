-------------------------------- MODULE Erasure --------------------------------
\* Promise: what was erased comes back from no cache and from no writer that had read it, and positions
\* have no gaps, whatever writes, reads and dies meanwhile.
\*
\* The log is one merged key's.  Some contributions hold what is to be erased.  A reader folds what is
\* kept of the fold and what came since, and keeps the fold: a cache.  A writer reads the fold and
\* commits to another key what it computed from it, if version and epoch are still those that it read.
\* The eraser looks for contributions, commits one that is erased from the start, which moves the
\* version, looks again, and takes the values away, one atomic step each, which raises the epoch and
\* forgets the cache.  It may die at any time, and another one begins again.
\*
\* @code Contribute core/append.py:append
\* @code ReadFold core/fold.py:fold_record
\* @code Save backends/sqlite/log.py:save_fold backends/postgres/commit.sql:save_fold
\* @code Save backends/redis/fold.lua
\* @code Read core/read.py:load
\* @code Commit core/transact.py:transact
\* @code Look core/erase.py:_look
\* @code Mark core/erase.py:_bury
\* @code Redact backends/sqlite/erase.py:redact backends/postgres/erase.sql:redact
\* @code Redact backends/redis/redact.lua
\* @code Finish core/erase.py:_scrub
\* @world Die the eraser's process is killed
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  MaxLog,
  MaxErasures

VARIABLES
  log,      \* entries in commit order: position, and whether the value holds what is to be erased
  epoch,    \* of the key
  steps,    \* how many steps have erased values of the space
  kept,     \* the fold that is kept: up to which entry, and whether it holds it
  folded,   \* the reader's fold: the same, and how many steps had erased when it was read
  read,     \* what the writer read: version, epoch, and whether it holds it
  leaked,   \* whether it has committed it after the erasure was done
  pc,       \* of the eraser: "rests", "looked", "marked" or "done"
  found,    \* the positions that it takes values from
  erasures  \* how often one has begun

vars == <<log, epoch, steps, kept, folded, read, leaked, pc, found, erasures>>

Nothing == [upto |-> 0, holds |-> FALSE]

Init ==
  /\ log = <<[at |-> 1, holds |-> TRUE]>>
  /\ epoch = 0
  /\ steps = 0
  /\ kept = Nothing
  /\ folded = [upto |-> 0, holds |-> FALSE, steps |-> 0]
  /\ read = [version |-> 0, epoch |-> 0, holds |-> FALSE]
  /\ pc = "rests"
  /\ found = {}
  /\ leaked = FALSE
  /\ erasures = 0

Last == Len(log)
Holding == {n \in 1..Last : log[n].holds}
Fold == kept.holds \/ (\E n \in Holding : n > kept.upto)

\* What is added after the mark is new, and not this erasure's.
Contribute ==
  /\ Last < MaxLog
  /\ \E holds \in BOOLEAN :
       /\ (~holds) \/ pc \in {"rests", "looked"}
       /\ log' = Append(log, [at |-> Last + 1, holds |-> holds])
  /\ UNCHANGED <<epoch, steps, kept, folded, read, leaked, pc, found, erasures>>

ReadFold ==
  /\ folded' = [upto |-> Last, holds |-> Fold, steps |-> steps]
  /\ UNCHANGED <<log, epoch, steps, kept, read, leaked, pc, found, erasures>>

Save ==
  /\ folded.upto > kept.upto
  /\ folded.steps = steps                   \* @guard erased-since -> NothingBack
  /\ kept' = [upto |-> folded.upto, holds |-> folded.holds]
  /\ UNCHANGED <<log, epoch, steps, folded, read, leaked, pc, found, erasures>>

Read ==
  /\ read' = [version |-> Last, epoch |-> epoch, holds |-> Fold]
  /\ UNCHANGED <<log, epoch, steps, kept, folded, leaked, pc, found, erasures>>

Commit ==
  /\ read.version = Last
  /\ read.epoch = epoch                     \* @guard epoch -> NothingComputed
  /\ leaked' = (leaked \/ (read.holds /\ pc = "done"))
  /\ UNCHANGED <<log, epoch, steps, kept, folded, read, pc, found, erasures>>

Look ==
  /\ pc \in {"rests", "done"}
  /\ erasures < MaxErasures
  /\ pc' = "looked"
  /\ found' = Holding
  /\ erasures' = erasures + 1
  /\ UNCHANGED <<log, epoch, steps, kept, folded, read, leaked>>

\* What was added since it looked and is not looked at again stays.
Overlooked(n) ==
  /\ n \notin found
  /\ n > Last                               \* @guard again -> NothingBack

Mark ==
  /\ pc = "looked"
  /\ Last < MaxLog
  /\ log' = Append(log, [at |-> Last + 1, holds |-> FALSE])
  /\ found' = {n \in Holding : ~Overlooked(n)}
  /\ pc' = "marked"
  /\ UNCHANGED <<epoch, steps, kept, folded, read, leaked, erasures>>

\* An entry that is taken out, instead of its value, leaves a gap.
TakenOut(n) ==
  /\ n \in found
  /\ n > Last                               \* @guard stays -> NoGaps

\* A fold that is kept stays.
Stays(n) ==
  /\ kept.holds
  /\ kept.upto < n                          \* @guard forgotten -> NothingBack

Redact ==
  /\ pc = "marked"
  /\ \E n \in found :
       /\ log' = IF TakenOut(n) THEN SubSeq(log, 1, n - 1) \o SubSeq(log, n + 1, Last)
                 ELSE [log EXCEPT ![n] = [at |-> n, holds |-> FALSE]]
       /\ found' = found \ {n}
       /\ kept' = IF Stays(n) THEN kept ELSE Nothing
  /\ epoch' = epoch + 1
  /\ steps' = steps + 1
  /\ UNCHANGED <<folded, read, leaked, pc, erasures>>

Finish ==
  /\ pc = "marked"
  /\ found = {}                             \* @guard every -> NothingBack
  /\ pc' = "done"
  /\ UNCHANGED <<log, epoch, steps, kept, folded, read, leaked, found, erasures>>

Die ==
  /\ pc \in {"looked", "marked"}
  /\ pc' = "rests"
  /\ found' = {}
  /\ UNCHANGED <<log, epoch, steps, kept, folded, read, leaked, erasures>>

Next ==
  \/ Contribute
  \/ ReadFold
  \/ Save
  \/ Read
  \/ Commit
  \/ Look
  \/ Mark
  \/ Redact
  \/ Finish
  \/ Die

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ pc \in {"rests", "looked", "marked", "done"}
  /\ \A n \in found : n \in 1..MaxLog
  /\ Last <= MaxLog

NoGaps == \A n \in 1..Last : log[n].at = n
\* Once it is done, no entry holds it, nor what is kept of the fold.
NothingBack == ((pc = "done") => ((~kept.holds) /\ Holding = {}))
\* And nobody commits what was computed from it before.
NothingComputed == ~leaked
================================================================================
