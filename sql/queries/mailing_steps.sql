-- Each change of a mail's state, the first one first.
-- $1 mailing
SELECT s.step, s.state, s.at, s.actor, s.hash, s.note
  FROM outbox.mailing_step s WHERE s.mailing = $1 ORDER BY s.step
