------------------------------ MODULE DurableRun ------------------------------
\* Promise: an effect of a durable run (a card is charged) happens once: never twice, whoever
\* crashes or wakes up when, and never silently not at all.  Finished steps are not repeated.
\*
\* A run has two steps, each with one effect.  Its progress is entries of the log: the intent
\* before the effect, the result after it.  A worker may stop between any two actions, for good or
\* for an hour; another one then takes the run over and raises its epoch.  Where it finds an intent
\* without a result the effect is in doubt, and the policy of the step decides:
\*   "retry"  send it again under the same idempotency key, which the other system knows;
\*   "check"  ask the other system, at this worker's epoch, whether it has happened;
\*   "ask"    stop, until a human has looked and said whether it has happened.
\* What this rests on: the other system takes each idempotency key once ("retry"), or takes no call
\* of an epoch older than one that it was asked at ("check", "ask").  With neither no policy is safe.
\*
\* A worker that is asleep between intent and call stands for a call that arrives late, too: who is
\* not answered does not call again, but takes the run over, at a new epoch.
\*
\* @code TakeOver runs/recording.py:take_up core/lease.py:take_own_lease
\* @code Begin runs/state.py:RunState.recall
\* @code Intend runs/effects.py:perform
\* @code Call runs/effects.py:perform
\* @code Retry runs/effects.py:_in_doubt
\* @code Check runs/effects.py:_looked_up
\* @code Stop runs/waiting.py:ask_about
\* @code Answer runs/waiting.py:ask_about
\* @code Result runs/recording.py:record
\* @code Finish runs/recording.py:complete
EXTENDS Naturals, Sequences

CONSTANTS
  Policies,
  MaxWorkers

VARIABLES
  policy,   \* of the steps
  workers,  \* how many workers there were; the last one's number is the epoch of the run
  pc,       \* per worker: "off", "ready", "fresh", "doubt", "asks", "sure", "called" or "done"
  step,     \* per worker: the step that it is at
  intents,  \* per step: the worker whose intent is in the log, 0 for none
  results,  \* steps whose result is in the log
  effects,  \* the steps whose effects have happened, in order
  known,    \* idempotency keys that the other system has seen
  newest,   \* the newest epoch that the other system was asked at
  over      \* whether the run has finished

vars == <<policy, workers, pc, step, intents, results, effects, known, newest, over>>

Steps   == {1, 2}
Workers == 1..MaxWorkers

Init ==
  /\ policy \in Policies
  /\ workers = 0
  /\ pc = [w \in Workers |-> "off"]
  /\ step = [w \in Workers |-> 1]
  /\ intents = [s \in Steps |-> 0]
  /\ results = {}
  /\ effects = <<>>
  /\ known = {}
  /\ newest = 0
  /\ over = FALSE

Happened(s) == \E i \in 1..Len(effects) : effects[i] = s
Goes(w, to) == pc' = [pc EXCEPT ![w] = to]

TakeOver ==
  /\ workers < MaxWorkers
  /\ ~over
  /\ workers' = workers + 1
  /\ Goes(workers + 1, "ready")
  /\ UNCHANGED <<policy, step, intents, results, effects, known, newest, over>>

\* Read the log.  A step that has an intent but no result is in doubt.
Begin(w) ==
  /\ pc[w] = "ready"
  /\ \E s \in Steps :
       /\ s \notin results                  \* @guard finished -> FinishedIsNotRepeated
       /\ (s = 1 \/ 1 \in results)          \* @guard order -> InOrder
       /\ step' = [step EXCEPT ![w] = s]
       /\ Goes(w, IF intents[s] = 0 THEN "fresh" ELSE "doubt")
  /\ UNCHANGED <<policy, workers, intents, results, effects, known, newest, over>>

Intend(w) ==
  /\ pc[w] \in {"fresh", "doubt", "asks"}
  /\ pc[w] = "fresh"                        \* @guard doubt -> NeverTwice
  /\ w = workers                            \* @guard intent-epoch -> NeverTwice
  /\ intents' = [intents EXCEPT ![step[w]] = w]
  /\ Goes(w, "sure")
  /\ UNCHANGED <<policy, workers, step, results, effects, known, newest, over>>

\* What the other system does for us, by policy.
Accepted(w) ==
  /\ (policy # "retry" \/ step[w] \notin known)     \* @guard key -> NeverTwice
  /\ (policy = "retry" \/ w >= newest)              \* @guard fence -> NeverTwice

\* The call.  An answer that is not heard leaves the worker with nothing to do but to give up.
Call(w) ==
  /\ pc[w] \in {"fresh", "sure"}
  /\ pc[w] = "sure"                         \* @guard intent -> NeverTwice
  /\ effects' = IF Accepted(w) THEN Append(effects, step[w]) ELSE effects
  /\ known' = known \cup {step[w]}
  /\ \E heard \in BOOLEAN :
       Goes(w, IF heard /\ (Accepted(w) \/ policy = "retry") THEN "called" ELSE "off")
  /\ UNCHANGED <<policy, workers, step, intents, results, newest, over>>

Retry(w) ==
  /\ pc[w] = "doubt"
  /\ policy = "retry"
  /\ Goes(w, "fresh")
  /\ UNCHANGED <<policy, workers, step, intents, results, effects, known, newest, over>>

\* The other system, or a human who looks at it, says whether the effect has happened, and takes
\* no call of an older epoch from now on.
Settled(w) ==
  /\ w >= newest
  /\ newest' = w
  /\ Goes(w, IF Happened(step[w]) THEN "called" ELSE "fresh")

Check(w) ==
  /\ pc[w] = "doubt"
  /\ policy = "check"
  /\ Settled(w)
  /\ UNCHANGED <<policy, workers, step, intents, results, effects, known, over>>

Stop(w) ==
  /\ pc[w] = "doubt"
  /\ policy = "ask"
  /\ Goes(w, "asks")
  /\ UNCHANGED <<policy, workers, step, intents, results, effects, known, newest, over>>

Answer(w) ==
  /\ pc[w] = "asks"
  /\ Settled(w)
  /\ UNCHANGED <<policy, workers, step, intents, results, effects, known, over>>

Result(w) ==
  /\ pc[w] \in {"sure", "called"}
  /\ pc[w] = "called"                       \* @guard answer -> NeverLost
  /\ w = workers                            \* @guard result-epoch -> FinishedIsNotRepeated
  /\ results' = results \cup {step[w]}
  /\ Goes(w, "ready")
  /\ UNCHANGED <<policy, workers, step, intents, effects, known, newest, over>>

Finish(w) ==
  /\ pc[w] = "ready"
  /\ w = workers
  /\ results = Steps                        \* @guard all -> NeverLost
  /\ over' = TRUE
  /\ Goes(w, "done")
  /\ UNCHANGED <<policy, workers, step, intents, results, effects, known, newest>>

Next ==
  \/ \E w \in Workers : Begin(w) \/ Intend(w) \/ Call(w) \/ Result(w) \/ Finish(w)
  \/ \E w \in Workers : Retry(w) \/ Check(w) \/ Stop(w) \/ Answer(w)
  \/ TakeOver

Spec == Init /\ [][Next]_vars

TypeOK ==
  /\ workers \in 0..MaxWorkers
  /\ \A w \in Workers : (step[w] \in Steps /\ intents[step[w]] \in 0..MaxWorkers)
  /\ results \subseteq Steps

NeverTwice == \A i, j \in 1..Len(effects) : ((effects[i] = effects[j]) => (i = j))
\* What the log says is done has happened, and a run that is over has done everything.
NeverLost == (\A s \in results : Happened(s)) /\ (~over \/ (\A s \in Steps : Happened(s)))
InOrder == (~Happened(2)) \/ effects[1] = 1
\* The worker in force is at no step that has a result.
FinishedIsNotRepeated ==
  \A w \in Workers :
    ((w = workers /\ pc[w] \in {"fresh", "doubt", "asks", "sure"}) => (step[w] \notin results))
===============================================================================
