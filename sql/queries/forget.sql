-- Forgets actions, sets of routes and counters that are of no more use; see the function.
-- $1 how long actions are kept, in ms
SELECT outbox.forget($1 * interval '1 ms') AS forgotten
