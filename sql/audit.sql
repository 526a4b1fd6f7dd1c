-- The audit: whether what outboxd promises of its tables is true of yours, now. Copy it into any
-- client, or: psql "$DATABASE_URL" -f sql/audit.sql
--
-- One row a check: its name, how much was found against it, one example, and the verdict. Nothing may
-- be VIOLATED. What is "worth a look" is allowed and counted. Where the schema is not called "outbox",
-- write its name in place of "outbox.".
--
-- One statement, so one snapshot: it may run while everything works. Read-only, and it takes no lock
-- that anybody waits for. The price is one pass over outbox.message, outbox.delivery and outbox.ledger
-- and a hash or a sort of the ledger, about a second for each 300,000 messages kept, and one over the
-- runs, files and mails of the calendar; more work_mem makes it quicker. For the time it runs it holds a snapshot, like any long query. The owner of the
-- schema or a member of outbox_operator may run it.
WITH found (name, example) AS (
  SELECT 'message_on_record', 'message ' || m.id
    FROM outbox.message m
   WHERE NOT EXISTS (SELECT FROM outbox.delivery d WHERE d.message_id = m.id)
     AND NOT EXISTS (SELECT FROM outbox.ledger l WHERE l.message_id = m.id)

  UNION ALL
  SELECT 'routing_trigger', 'outbox.message lacks its trigger, or it is disabled'
   WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                      WHERE t.tgrelid = 'outbox.message'::regclass
                        AND t.tgname = 'route_inserted' AND t.tgenabled IN ('O', 'A'))

  UNION ALL
  SELECT 'delivery_has_message', 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target
    FROM outbox.delivery d
   WHERE NOT EXISTS (SELECT FROM outbox.message m WHERE m.id = d.message_id)

  UNION ALL
  -- Order is kept by the delivery's key, and it is the message's.
  SELECT 'delivery_has_key', 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target
    FROM outbox.delivery d
    JOIN outbox.message m ON m.id = d.message_id
   WHERE d.key IS DISTINCT FROM m.key

  UNION ALL
  SELECT 'delivery_has_sink', 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target
    FROM outbox.delivery d
   WHERE d.sink <> '' AND NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name = d.sink)

  UNION ALL
  SELECT 'delivery_state', 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target || ' is ' || d.state
    FROM outbox.delivery d
   WHERE NOT (CASE d.state
                WHEN 'pending' THEN d.sink <> '' AND isfinite(d.due_at)
                WHEN 'unrouted' THEN d.sink = '' AND d.due_at = 'infinity'
                WHEN 'sending' THEN d.sink <> '' AND d.due_at = 'infinity'
                                    AND d.epoch IS NOT NULL AND d.repeatable IS NOT NULL
                WHEN 'held' THEN d.sink <> '' AND d.due_at = 'infinity' AND d.reason IS NOT NULL
                WHEN 'dead' THEN d.sink <> '' AND d.due_at = 'infinity' AND d.reason IS NOT NULL
                ELSE false
              END AND d.attempt >= 0 AND d.round >= 1 AND coalesce(d.crashes, 0) >= 0)

  UNION ALL
  SELECT 'recipients_form', r.name
    FROM (SELECT 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target AS name, d.recipients
            FROM outbox.delivery d WHERE d.recipients IS NOT NULL
          UNION ALL
          SELECT 'mail ' || m.id, m.recipients FROM outbox.mailing m WHERE m.recipients IS NOT NULL) r
   WHERE jsonb_path_exists(r.recipients,
           '$.* ? (!(exists (@.state ? (@ == "accepted" || @ == "refused" || @ == "deferred" || @ == "in doubt"))))')

  UNION ALL
  -- Each attempt that did not deliver has counted up the rev and left its reason.
  SELECT 'delivery_attempts', 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target
    FROM outbox.delivery d
   WHERE d.attempt > d.rev OR (d.attempt > 0 AND d.state <> 'sending' AND d.reason IS NULL)

  UNION ALL
  -- What waits for a route waits alone.
  SELECT 'unrouted_alone', 'message ' || d.message_id
    FROM outbox.delivery d
   WHERE d.state = 'unrouted'
     AND (EXISTS (SELECT FROM outbox.delivery o
                   WHERE o.message_id = d.message_id AND (o.sink, o.target) <> (d.sink, d.target))
          OR EXISTS (SELECT FROM outbox.ledger l WHERE l.message_id = d.message_id))

  UNION ALL
  -- An intent is its sink's present owner's, or was held when the sink was taken over.
  SELECT 'intent_has_owner', 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target
    FROM outbox.delivery d
    JOIN outbox.sink s ON s.name = d.sink
   WHERE d.state = 'sending'
     AND (d.epoch > s.epoch
          OR (d.epoch < s.epoch AND s.taken_at < clock_timestamp() - interval '1 minute'))

  UNION ALL
  SELECT 'one_sending_a_key', 'key of delivery ' || min(d.message_id) || '/' || d.sink || '/' || d.target
    FROM outbox.delivery d
   WHERE d.state = 'sending' AND d.key IS NOT NULL
   GROUP BY d.sink, d.target, d.key
  HAVING count(*) > 1

  UNION ALL
  -- A round ends with a ledger row, and only then a next one may begin.
  SELECT 'closed_or_open', 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target || ' round ' || d.round
    FROM outbox.delivery d
    JOIN outbox.ledger l ON l.message_id = d.message_id AND l.sink = d.sink AND l.target = d.target
   WHERE l.round >= d.round
   GROUP BY d.message_id, d.sink, d.target, d.round

  UNION ALL
  SELECT 'round_was_closed', 'delivery ' || d.message_id || '/' || d.sink || '/' || d.target || ' round ' || d.round
    FROM outbox.delivery d
   WHERE d.round > 1
     AND NOT EXISTS (SELECT FROM outbox.ledger l
                      WHERE l.message_id = d.message_id AND l.round < d.round)

  UNION ALL
  SELECT 'recorded_once', 'ledger of ' || l.message_id || '/' || l.sink || '/' || l.target || ' round ' || l.round
    FROM outbox.ledger l
   GROUP BY l.message_id, l.sink, l.target, l.round, l.outcome, l.attempts
  HAVING count(*) > 1

  UNION ALL
  -- Two ends of one round: only where an operator or the clock closed what had arrived all the same.
  SELECT 'closed_once', 'ledger of ' || l.message_id || '/' || l.sink || '/' || l.target || ' round ' || l.round
    FROM outbox.ledger l
   GROUP BY l.message_id, l.sink, l.target, l.round
  HAVING count(*) > 1
     AND (count(DISTINCT l.outcome) FILTER (WHERE l.outcome <> 'delivered') > 1
          OR bool_or(l.outcome IN ('exported', 'skipped', 'duplicate')))

  UNION ALL
  SELECT 'ledger_shape', 'ledger of ' || l.message_id || '/' || l.sink || '/' || l.target || ' is ' || l.outcome
    FROM outbox.ledger l
   WHERE NOT (CASE l.outcome
                WHEN 'delivered' THEN l.sink <> '' AND l.attempts >= 1
                WHEN 'exported' THEN l.sink <> '' AND l.attempts >= 1 AND l.export_id IS NOT NULL
                WHEN 'duplicate' THEN l.sink = '' AND l.attempts = 0
                ELSE l.attempts >= 0
              END AND l.round >= 1)

  UNION ALL
  SELECT 'duplicate_alone', 'message ' || l.message_id
    FROM outbox.ledger l
   WHERE l.outcome = 'duplicate'
     AND (EXISTS (SELECT FROM outbox.delivery d WHERE d.message_id = l.message_id AND d.round = l.round)
          OR EXISTS (SELECT FROM outbox.ledger o
                      WHERE o.message_id = l.message_id AND o.round = l.round
                        AND o.outcome <> 'duplicate'))

  UNION ALL
  SELECT 'not_before_due', 'ledger of ' || l.message_id || '/' || l.sink || '/' || l.target
    FROM outbox.ledger l
    JOIN outbox.message m ON m.id = l.message_id
   WHERE l.outcome IN ('delivered', 'exported') AND l.closed_at < m.due_at

  UNION ALL
  -- Ids are part of idempotency keys: none may be drawn twice. After a restore: outboxd resume --restored
  SELECT 'sequence_is_ahead', 'message ' || u.id
    FROM (SELECT m.id FROM outbox.message m
          UNION SELECT d.message_id FROM outbox.delivery d
          UNION SELECT l.message_id FROM outbox.ledger l) u
   WHERE u.id > coalesce(pg_sequence_last_value(
                  pg_get_serial_sequence('outbox.message', 'id')::regclass), 0)

  UNION ALL
  -- A file's rows are the ledger rows that name it; an export's come from its query. Files from before
  -- the oldest partition are past.
  SELECT 'export_has_its_rows', 'export ' || e.id
    FROM outbox.export e
    LEFT JOIN (SELECT l.export_id, count(*) AS n, min(l.message_id) AS low, max(l.message_id) AS high
                 FROM outbox.ledger l
                WHERE l.export_id IS NOT NULL
                GROUP BY l.export_id) r ON r.export_id = e.id
   WHERE NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name = e.sink AND s.kind = 'export')
     AND (coalesce(r.n, 0), r.low, r.high) IS DISTINCT FROM (e.row_count, e.first_id, e.last_id)
     AND e.opened_at >= (SELECT min(to_date(right(i.inhrelid::regclass::text, 8), 'YYYYMMDD')::timestamp)
                                AT TIME ZONE 'UTC'
                           FROM pg_catalog.pg_inherits i
                          WHERE i.inhparent = 'outbox.ledger'::regclass)

  UNION ALL
  SELECT 'exported_has_export', 'ledger of ' || l.message_id || '/' || l.sink
    FROM outbox.ledger l
   WHERE l.export_id IS NOT NULL AND NOT EXISTS (SELECT FROM outbox.export e WHERE e.id = l.export_id)

  UNION ALL
  -- What was cut by time begins where the cut before it ended, or later.
  SELECT 'export_spans', 'export ' || x.id
    FROM (SELECT e.id, e.due_from, e.due_before,
                 max(e.due_before) OVER (PARTITION BY e.sink ORDER BY e.id
                                         ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS cut_before
            FROM outbox.export e) x
   WHERE x.due_from >= x.due_before OR x.due_from < x.cut_before

  UNION ALL
  SELECT 'export_has_its_mail', 'export ' || e.id
    FROM outbox.export e
   WHERE e.mailing IS NOT NULL
     AND (e.state <> 'published'
          OR NOT EXISTS (SELECT FROM outbox.mailing m WHERE m.id = e.mailing AND m.sink = e.sink))

  UNION ALL
  -- The day of a mail's dialogue is kept as long as it may have arrived.
  SELECT 'mail_a_day', 'mails of ' || m.sink || ' on ' || m.day
    FROM outbox.mailing m
   WHERE m.day IS NOT NULL
   GROUP BY m.sink, m.day
  HAVING count(*) > 1

  UNION ALL
  -- Each change of a mail left its step, one after the other, and the last is where it stands.
  SELECT 'mail_steps', 'mail ' || coalesce(m.id, x.mailing)
    FROM outbox.mailing m
    FULL JOIN (SELECT w.mailing, count(*) AS n, max(w.step) AS last_step,
                      (array_agg(w.state ORDER BY w.step DESC))[1] AS last_state, bool_and(w.follows) AS follow
                 FROM (SELECT s.mailing, s.step, s.state,
                              (coalesce(lag(s.state) OVER (PARTITION BY s.mailing ORDER BY s.step), 'none'), s.state) IN (
                                ('none', 'planned'),
                                -- Made anew: another hash.
                                ('planned', 'planned'), ('built', 'built'),
                                ('planned', 'built'), ('planned', 'unsent'), ('planned', 'dead'),
                                ('planned', 'sent'), ('planned', 'discarded'),
                                ('built', 'planned'), ('built', 'sending'), ('built', 'unsent'), ('built', 'dead'),
                                ('built', 'sent'), ('built', 'discarded'),
                                ('sending', 'sent'), ('sending', 'unsent'), ('sending', 'held'), ('sending', 'dead'),
                                ('unsent', 'planned'), ('unsent', 'built'), ('unsent', 'dead'),
                                ('unsent', 'sent'), ('unsent', 'discarded'),
                                ('held', 'sent'), ('held', 'unsent'), ('held', 'dead'), ('held', 'discarded'),
                                ('dead', 'planned'), ('dead', 'sent'), ('dead', 'discarded'),
                                ('discarded', 'sent')) AS follows
                         FROM outbox.mailing_step s) w
                GROUP BY w.mailing) x ON x.mailing = m.id
   WHERE NOT coalesce(x.follow AND x.n = x.last_step AND x.last_state = m.state, false)

  UNION ALL
  -- The intent stood before the dialogue began, with the hash of what was to be sent.
  SELECT 'mail_intent', 'mail ' || s.mailing
    FROM outbox.mailing_step s
   WHERE (s.state = 'sending' AND s.hash IS NULL)
      OR (s.state IN ('sent', 'held')
          AND NOT EXISTS (SELECT FROM outbox.mailing_step i
                           WHERE i.mailing = s.mailing AND i.step < s.step AND i.state = 'sending'))

  UNION ALL
  -- Nothing comes after it was sent, however often it was tried before.
  SELECT 'mail_sent_once', 'mail ' || s.mailing
    FROM outbox.mailing_step s
   WHERE s.state = 'sent'
     AND EXISTS (SELECT FROM outbox.mailing_step n WHERE n.mailing = s.mailing AND n.step > s.step)

  UNION ALL
  SELECT 'occurrence_shape', 'run of ' || o.schedule || '/' || o.period || ' round ' || o.round
    FROM outbox.occurrence o
   WHERE o.passed < 0 OR o.messages < 0 OR (o.state = 'missed' AND o.messages > 0)
      OR (o.messages > 0) IS DISTINCT FROM (o.first_id IS NOT NULL AND o.last_id IS NOT NULL)
      OR o.last_id - o.first_id + 1 < o.messages

  UNION ALL
  SELECT 'occurrence_once', 'run of ' || o.schedule || '/' || min(o.period)
    FROM outbox.occurrence o
   GROUP BY o.schedule, o.due_at, o.round
  HAVING count(*) > 1

  UNION ALL
  -- Nothing is pruned within the hour.
  SELECT 'occurrence_has_messages', 'run of ' || o.schedule || '/' || o.period || ' round ' || o.round
    FROM outbox.occurrence o
   WHERE o.ran_at > clock_timestamp() - interval '1 hour'
     AND o.messages > (SELECT count(*) FROM outbox.message m WHERE m.id BETWEEN o.first_id AND o.last_id)

  UNION ALL
  SELECT 'accepted_again', 'ledger of ' || l.message_id || '/' || l.sink || '/' || l.target || ' round ' || l.round
    FROM outbox.ledger l
   WHERE l.outcome = 'delivered'
   GROUP BY l.message_id, l.sink, l.target, l.round
  HAVING count(*) > 1

  UNION ALL
  -- First rounds only: a replay comes later on purpose.
  SELECT 'key_in_order', 'ledger of ' || o.message_id || '/' || o.sink || '/' || o.target
    FROM (SELECT l.message_id, l.sink, l.target,
                 lag(l.message_id) OVER (PARTITION BY l.sink, l.target, m.key ORDER BY l.closed_at) AS before
            FROM outbox.ledger l
            JOIN outbox.message m ON m.id = l.message_id
           WHERE m.key IS NOT NULL AND l.outcome = 'delivered' AND l.round = 1) o
   WHERE o.before > o.message_id
), checks (place, name, must_be_none, says) AS (
  VALUES
    (1, 'message_on_record', true, 'every message has an open delivery or a ledger row'),
    (2, 'routing_trigger', true, 'the trigger that routes new messages is there and enabled'),
    (3, 'delivery_has_message', true, 'every open delivery has its message'),
    (4, 'delivery_has_key', true, 'every open delivery has the key of its message'),
    (5, 'delivery_has_sink', true, 'every open delivery goes to a sink that is known'),
    (6, 'delivery_state', true, 'the state of every open delivery fits its row'),
    (7, 'recipients_form', true, 'of every recipient that is known it is known how it ended'),
    (8, 'delivery_attempts', true, 'every attempt that did not deliver left its reason'),
    (9, 'unrouted_alone', true, 'what waits for a route has no other delivery'),
    (10, 'intent_has_owner', true, 'what is being sent is sent by the owner of its sink'),
    (11, 'one_sending_a_key', true, 'one message of a key is being sent at a time'),
    (12, 'closed_or_open', true, 'no delivery is open and closed in the same round'),
    (13, 'round_was_closed', true, 'a further round has a closed one before it'),
    (14, 'recorded_once', true, 'no end of a delivery is recorded twice'),
    (15, 'closed_once', true, 'no delivery was closed in two ways in the same round'),
    (16, 'ledger_shape', true, 'the outcome of every ledger row fits the row'),
    (17, 'duplicate_alone', true, 'what was closed as a duplicate has no delivery'),
    (18, 'not_before_due', true, 'nothing was delivered before it was due'),
    (19, 'sequence_is_ahead', true, 'no message id can be drawn again'),
    (20, 'export_has_its_rows', true, 'every file has as many ledger rows as it says'),
    (21, 'exported_has_export', true, 'every exported row belongs to a file'),
    (22, 'export_spans', true, 'no two files cut by time hold the same span'),
    (23, 'export_has_its_mail', true, 'what a published file went out with is a mail of its sink'),
    (24, 'mail_a_day', true, 'no two mails of a sink went out on the same day, where one a day is allowed'),
    (25, 'mail_steps', true, 'every change of a mail is on record, in order, up to where it stands'),
    (26, 'mail_intent', true, 'that a mail is being sent was on record before any of it was sent'),
    (27, 'mail_sent_once', true, 'nothing happened to a mail after it was sent'),
    (28, 'occurrence_shape', true, 'what every run of a schedule says of itself fits together'),
    (29, 'occurrence_once', true, 'no instant of a schedule ran under two names'),
    (30, 'occurrence_has_messages', true, 'the messages of every recent run are there'),
    (31, 'accepted_again', false, 'accepted twice by its receiver; never under at-most-once'),
    (32, 'key_in_order', false, 'closed after a later one of its key')
)
SELECT c.name, count(f.name) AS found, min(f.example) AS example,
       CASE WHEN count(f.name) = 0 THEN 'ok'
            WHEN c.must_be_none THEN 'VIOLATED'
            ELSE 'worth a look' END AS verdict,
       c.says
  FROM checks c
  LEFT JOIN found f ON f.name = c.name
 GROUP BY c.place, c.name, c.must_be_none, c.says
 ORDER BY c.place
