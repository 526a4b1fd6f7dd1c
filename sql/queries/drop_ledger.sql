-- Lets go of a partition of the ledger that speaks of no message any more; see the function.
-- $1 how long the longest kept message is kept, in ms
SELECT outbox.drop_ledger($1 * interval '1 ms') AS done
