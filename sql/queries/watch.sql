-- What is in trouble now, entered as alerts; what is no longer so is marked as gone. Every look is
-- bounded and goes through an index: counts stop at the limit, sinks come from their table and not from
-- the deliveries, and what has no index of its own (late, unseen) was found by the sweep. Alerts that
-- cannot be delivered raise an alert of their sink, but are no news after it: else two sinks that both
-- refuse would tell of each other for ever.
-- Two relays may do this at once: rows are entered in order, and both enter the same.
-- $1 limit of each count, $2 the type of alerts
WITH live AS MATERIALIZED (
  SELECT r.sinks FROM outbox.relay r
   WHERE r.heartbeat_at > statement_timestamp() - r.lease
     AND r.heartbeat_at < statement_timestamp() + r.lease
), sink AS MATERIALIZED (
  SELECT s.name FROM outbox.sink s UNION SELECT r.sink FROM outbox.route r WHERE r.sink <> ''
), timely AS (
  DELETE FROM outbox.late l
   WHERE NOT EXISTS (
           SELECT FROM outbox.delivery d
             JOIN outbox.message m ON m.id = d.message_id
             JOIN outbox.flow f ON f.sink = d.sink
            WHERE d.message_id = l.message_id AND d.sink = l.sink AND d.target = l.target
              AND d.state = 'pending'
              AND greatest(m.created_at, m.due_at) + f.horizon < statement_timestamp())
  RETURNING l.sink, l.message_id, l.target
), trouble AS MATERIALIZED (
  SELECT w.cause, n.name AS subject, statement_timestamp() AS since, x.count, x.news, x.newest,
         x.example, x.reason
    FROM sink n
   CROSS JOIN (VALUES ('dead'), ('held')) AS w (cause)
   CROSS JOIN LATERAL (
           SELECT count(*) AS count, count(*) FILTER (WHERE d.type IS DISTINCT FROM $2) AS news,
                  coalesce(max(d.message_id) FILTER (WHERE d.type IS DISTINCT FROM $2), 0) AS newest,
                  (array_agg(concat_ws('/', d.message_id, n.name, nullif(d.target, '')) ORDER BY d.message_id DESC))[1]
                    AS example,
                  (array_agg(d.reason ORDER BY d.message_id DESC))[1] AS reason
             FROM (SELECT o.message_id, o.target, o.reason, m.type
                     FROM (SELECT s.message_id, s.target, s.reason
                             FROM outbox.delivery s
                            WHERE s.state = w.cause AND s.state <> 'pending' AND s.sink = n.name
                            ORDER BY s.message_id DESC LIMIT $1) o
                     LEFT JOIN outbox.message m ON m.id = o.message_id) d) x
   WHERE x.count > 0
  UNION ALL
  SELECT 'open', f.sink, f.open_since, 1, 0, 0, NULL, f.open_reason
    FROM outbox.flow f WHERE f.open_since IS NOT NULL
  UNION ALL
  SELECT 'orphaned', n.name, statement_timestamp(), 1, 0, 0, NULL, NULL
    FROM sink n
   WHERE EXISTS (SELECT FROM live) AND NOT EXISTS (SELECT FROM live v WHERE n.name = ANY (v.sinks))
     AND (EXISTS (SELECT FROM outbox.route r WHERE r.sink = n.name)
          OR EXISTS (SELECT FROM outbox.delivery d WHERE d.sink = n.name))
  UNION ALL
  SELECT 'unrouted', m.type, min(m.created_at), count(*), 0, 0, min(m.id)::text, NULL
    FROM (SELECT d.message_id FROM outbox.delivery d
           WHERE d.state = 'unrouted' AND d.sink = ''
           ORDER BY d.message_id LIMIT $1) u
    JOIN outbox.message m ON m.id = u.message_id
   GROUP BY m.type
  UNION ALL
  SELECT 'unseen', '', min(u.found_at), count(*), 0, 0, min(u.message_id)::text, NULL
    FROM (SELECT s.message_id, s.found_at FROM outbox.unseen s ORDER BY s.message_id LIMIT $1) u
  HAVING count(*) > 0
  UNION ALL
  SELECT 'late', l.sink, min(l.found_at), count(*), 0, 0,
         (array_agg(concat_ws('/', l.message_id, l.sink, nullif(l.target, '')) ORDER BY l.message_id))[1], NULL
    FROM outbox.late l
   WHERE (l.sink, l.message_id, l.target) NOT IN (SELECT t.sink, t.message_id, t.target FROM timely t)
   GROUP BY l.sink
  UNION ALL
  SELECT 'paused', '', statement_timestamp(), 1, 0, 0, NULL, i.paused_for
    FROM outbox.installation i WHERE i.paused
), entered AS (
  INSERT INTO outbox.alert AS a (cause, subject, since, count, news, newest, example, reason)
  SELECT t.cause, t.subject, t.since, t.count, t.news, t.newest, t.example, t.reason
    FROM trouble t
   ORDER BY t.cause, t.subject
      ON CONFLICT ON CONSTRAINT alert_pk DO UPDATE
     SET since = CASE WHEN a.gone THEN excluded.since ELSE a.since END,
         last_seen_at = clock_timestamp(),
         count = excluded.count, news = excluded.news, newest = excluded.newest,
         example = excluded.example, reason = excluded.reason,
         -- What was there, went and came again before that was told is news.
         told_news = CASE WHEN NOT a.gone THEN least(a.told_news, excluded.news) END,
         told_newest = CASE WHEN NOT a.gone THEN a.told_newest END,
         gone = false
   WHERE a.gone OR a.last_seen_at < clock_timestamp() - interval '1 minute'
      OR (a.count, a.news, a.newest, a.example, a.reason)
         IS DISTINCT FROM (excluded.count, excluded.news, excluded.newest, excluded.example, excluded.reason)
), over AS (
  UPDATE outbox.alert a SET gone = true, last_seen_at = clock_timestamp()
   WHERE NOT a.gone
     AND NOT EXISTS (SELECT FROM trouble t WHERE t.cause = a.cause AND t.subject = a.subject)
)
-- What was never told needs no word when it is over; the last word is kept an hour, so that the cause
-- is not told of again too soon, and one that nobody would carry a day.
DELETE FROM outbox.alert a
 WHERE a.gone AND a.last_seen_at < clock_timestamp() - CASE
         WHEN a.told_at IS NULL THEN interval '0'
         WHEN a.told_news IS NULL THEN interval '1 hour'
         ELSE interval '1 day' END
   AND NOT EXISTS (SELECT FROM trouble t WHERE t.cause = a.cause AND t.subject = a.subject)
