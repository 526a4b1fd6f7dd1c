-- Which recipients accepted what is not closed by that. Without a fence, because it is true whoever owns the
-- sink now and whatever an operator did meanwhile: whoever sends it next must not send it to them. Counts up
-- no rev: it takes nothing back that was decided by the rev, and the end of the attempt, which is addressed
-- by it, is yet to be written. Not to another life of the delivery, which is for everybody again.
-- $1 sink, $2 message ids, $3 targets, $4 rounds as fetched, $5 who accepted
UPDATE outbox.delivery d
   SET recipients = outbox.learned(d.recipients, s.recipients)
  FROM (SELECT u.message_id, u.target, u.round, u.recipients::jsonb AS recipients
          FROM unnest($2::bigint[], $3::text[], $4::integer[], $5::text[])
               AS u (message_id, target, round, recipients)) s
 WHERE d.message_id = s.message_id AND d.sink = $1 AND d.target = s.target AND d.round = s.round
   AND d.recipients IS DISTINCT FROM outbox.learned(d.recipients, s.recipients)
