-- Records how a dialogue ended. That a mail was sent is true whoever owns the sink now and whatever became
-- of the row; anything else is said only of the dialogue that this relay began, and of no later one: what
-- is repeated because its answer was lost may arrive late. Where some accepted, the day has had its mail.
-- $1 relay, $2 epoch, $3 mailing, $4 state, $5 ms until it is due again, $6 reason, $7 transcript,
-- $8 whether the attempt is spent, $9 when the dialogue began, $10 what was learned of recipients
UPDATE outbox.mailing m
   SET state = $4, actor = $1, reason = $6, transcript = $7, changed_at = clock_timestamp(),
       attempt = m.attempt - CASE WHEN $8 OR m.state <> 'sending' THEN 0 ELSE 1 END,
       day = CASE WHEN $4 IN ('unsent', 'dead')
                       AND NOT outbox.has_recipient(outbox.learned(m.recipients, $10::text::jsonb), 'accepted')
                  THEN NULL ELSE m.day END,
       recipients = outbox.learned(m.recipients, $10::text::jsonb),
       hold_until = CASE WHEN $4 = 'held' THEN clock_timestamp() END,
       due_at = clock_timestamp() + $5 * interval '1 ms'
 WHERE m.id = $3
   AND CASE $4 WHEN 'sent' THEN m.state <> 'sent'
               ELSE m.state = 'sending' AND m.epoch = $2 AND m.changed_at = $9 END
