-- What a former owner was sending when it fell silent, seen by the one that took over. Under
-- at-most-once nobody but an operator may say what became of it: held. Where the intent was only
-- written to count crashes: tried again, and dead once it has seen too many relays end.
-- No "not delivered" is believed before the former owner's lease and attempt are certainly over.
-- The fence: see settle_open.sql.
-- $1 sink, $2 epoch, $3 crashes after which it is dead, $4 ms until the former owner is certainly done
WITH fence AS MATERIALIZED (
  SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT
), left_open AS MATERIALIZED (
  SELECT d.message_id, d.target,
         CASE WHEN NOT d.repeatable THEN 'held'
              WHEN coalesce(d.crashes, 0) + 1 >= $3 THEN 'dead'
              ELSE 'pending' END AS state
    FROM outbox.delivery d, fence
   WHERE d.state = 'sending' AND d.sink = $1 AND d.epoch < $2
)
UPDATE outbox.delivery d
   SET state = o.state, rev = d.rev + 1, epoch = NULL, repeatable = NULL,
       due_at = CASE o.state WHEN 'pending' THEN clock_timestamp() ELSE 'infinity' END,
       attempt = CASE o.state WHEN 'pending' THEN greatest(d.attempt - 1, 0) ELSE d.attempt END,
       crashes = CASE WHEN d.repeatable THEN coalesce(d.crashes, 0) + 1 ELSE d.crashes END,
       hold_until = CASE o.state WHEN 'held' THEN clock_timestamp() + $4 * interval '1 ms' END,
       reason = CASE o.state
         WHEN 'held' THEN 'in doubt: the relay that was sending it fell silent'
         WHEN 'dead' THEN 'the relay crashed ' || coalesce(d.crashes, 0) + 1 || ' times while sending it'
         ELSE 'the relay crashed while sending it' END
  FROM left_open o
 WHERE d.message_id = o.message_id AND d.sink = $1 AND d.target = o.target AND d.state = 'sending'
RETURNING d.message_id, d.target, d.state
