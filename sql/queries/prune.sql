-- One bounded step of retention; see the function.
-- $1 after this message id, $2 span of ids, $3 how long messages are kept in ms, $4 types that are kept
-- for another time
SELECT p.reached, p.pruned
  FROM outbox.prune($1, $2, $3 * interval '1 ms', $4::text::jsonb) p
