-- outboxd, migration 3: a mail server answers for each recipient apart, so outcomes are kept apart.
--
-- A relay of the version before would send a mail again to those that accepted it: works_from is 3.

-- What became of each recipient so far: {"a@shop.example": {"state": "accepted", "reply": "250 ok"}}. NULL
-- until an attempt learned something that its row does not say as a whole; most rows never have it.
ALTER TABLE outbox.delivery ADD COLUMN recipients jsonb;
ALTER TABLE outbox.mailing  ADD COLUMN recipients jsonb;
