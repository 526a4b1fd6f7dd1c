-- Notes what an operator did.
-- $1 actor, $2 verb, $3 what else there is to say
INSERT INTO outbox.action (actor, verb, note) VALUES ($1, $2, $3)
