-- The deliveries of a message, open and closed; of closed ones each life.
-- $1 message id
SELECT x.sink, x.target, x.state, x.attempts, x.round, x.rev, x.due_at, x.closed_at, x.words,
       x.hold_until, x.crashes, x.recipients::text AS recipients,
       extract(epoch FROM x.hold_until - statement_timestamp())::double precision AS hold_for,
       extract(epoch FROM x.due_at - statement_timestamp())::bigint AS due_in
  FROM (SELECT d.sink, d.target, d.state, d.attempt AS attempts, d.round, d.rev,
               CASE WHEN isfinite(d.due_at) THEN d.due_at END AS due_at,
               NULL::timestamptz AS closed_at, d.reason AS words, d.hold_until, d.crashes,
               d.recipients
          FROM outbox.delivery d
         WHERE d.message_id = $1
        UNION ALL
        SELECT l.sink, l.target, l.outcome, l.attempts, l.round, NULL, NULL, l.closed_at, l.receipt,
               NULL, NULL, NULL
          FROM outbox.ledger l
         WHERE l.message_id = $1) x
 ORDER BY x.sink, x.target, x.round, x.closed_at NULLS LAST
