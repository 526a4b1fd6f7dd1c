-- Passes over periods that are too late: one row, the newest's, counts them. Not while somebody else is
-- at the schedule, not if it was settled further meanwhile, not while the installation is paused or in
-- a copy of it; answers whether it did.
-- $1 schedule, $2 settled until as it was seen, $3 period, $4 due at, $5 how many before it, $6 actor,
-- $7 what comes next
WITH lock AS MATERIALIZED (
  SELECT pg_try_advisory_xact_lock('outbox.occurrence'::regclass::oid::integer, hashtext($1)) AS held
), settled AS (
  UPDATE outbox.calendar c
     SET settled_until = $4, next_at = $7, reason = NULL
    FROM lock l
   WHERE l.held AND c.kind = 'schedule' AND c.name = $1 AND c.settled_until = $2
     AND NOT EXISTS (SELECT FROM outbox.installation i
                      WHERE i.paused OR coalesce(outbox.is_restored(), false))
  RETURNING c.name
), entered AS (
  INSERT INTO outbox.occurrence (schedule, period, state, due_at, passed, actor)
  SELECT s.name, $3, 'missed', $4, $5, $6 FROM settled s
      ON CONFLICT ON CONSTRAINT occurrence_pk DO NOTHING
)
SELECT EXISTS (SELECT FROM settled) AS passed
