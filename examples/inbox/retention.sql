-- Forgets old ids, a bounded number at a time; run it daily until it deletes nothing.
--
-- An id that is forgotten is an effect that may be done again. So keep it for longer than a repeat may come:
-- all attempts of the sink (a little more than three days by default), and as long as a dead or a held
-- delivery may wait until an operator has it sent once more.
DELETE FROM inbox.seen
 WHERE id IN (SELECT id FROM inbox.seen
               WHERE received_at < now() - interval '90 days'
               ORDER BY received_at LIMIT 10000);
