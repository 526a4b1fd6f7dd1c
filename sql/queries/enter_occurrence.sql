-- Enters a run of a period; no row if it ran before, or was passed over. By hand what was passed over may
-- run, as another round, and with "again" also what ran.
-- $1 schedule, $2 period, $3 due at, $4 passed over with it, $5 late from then on, $6 actor,
-- $7 by hand, $8 again
INSERT INTO outbox.occurrence (schedule, period, round, state, due_at, passed, late_at, actor)
SELECT $1, $2,
       CASE WHEN $8 OR ($7 AND bool_and(r.state = 'missed')) THEN coalesce(max(r.round), 0) + 1 ELSE 1 END,
       'ran', $3, $4, $5, $6
  FROM outbox.occurrence r
 WHERE r.schedule = $1 AND r.period = $2
    ON CONFLICT ON CONSTRAINT occurrence_pk DO NOTHING
RETURNING round
