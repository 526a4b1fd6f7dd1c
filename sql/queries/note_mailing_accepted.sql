-- Which recipients accepted a mail that is not sent by that: see note_accepted.sql. No state changes, so no
-- step is left.
-- $1 mailing, $2 who accepted
UPDATE outbox.mailing m
   SET recipients = outbox.learned(m.recipients, $2::text::jsonb)
 WHERE m.id = $1 AND m.recipients IS DISTINCT FROM outbox.learned(m.recipients, $2::text::jsonb)
