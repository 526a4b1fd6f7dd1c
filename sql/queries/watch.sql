-- What is in trouble now, entered as alerts; what is no longer so is marked as gone. Every look is
-- bounded and goes through an index: counts stop at the limit, sinks come from their table and not from
-- the deliveries, and what has no index of its own (late, unseen) was found by the sweep. Alerts that
-- cannot be delivered raise an alert of their sink, but are no news after it: else two sinks that both
-- refuse would tell of each other for ever. Of each schedule the runs of the last days are looked at, up to
-- a number: what is older and still open is late, dead or held by itself.
-- Two relays may do this at once: rows are entered in order, and both enter the same.
-- $1 limit of each count, $2 the type of alerts
WITH live AS MATERIALIZED (
  SELECT r.sinks, r.schedules FROM outbox.relay r
   WHERE r.heartbeat_at > statement_timestamp() - r.lease
     AND r.heartbeat_at < statement_timestamp() + r.lease
), process AS MATERIALIZED (
  SELECT r.host, r.pid, min(r.started_at) AS began_at, max(r.heartbeat_at) AS last_at,
         (array_agg(r.id ORDER BY r.heartbeat_at DESC))[1] AS id,
         bool_or(r.heartbeat_at >= statement_timestamp() - r.lease) AS alive
    FROM outbox.relay r
   GROUP BY r.host, r.pid
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
), missed AS (
  -- Periods that were passed over in the last days. Those that an operator ran since are missed no more:
  -- of a period with a row of its own another round, of the others before it their rows.
  SELECT o.schedule, o.ran_at, o.due_at,
         CASE WHEN o.own > 0 THEN o.schedule || '/' || o.period END AS example,
         o.own + greatest(0, o.passed - (
           SELECT count(DISTINCT f.period) FROM outbox.occurrence f
            WHERE f.schedule = o.schedule AND f.due_at < o.due_at AND f.ran_at > o.ran_at AND f.state = 'ran'
              AND f.due_at > coalesce((
                    SELECT p.due_at FROM outbox.occurrence p
                     WHERE p.schedule = o.schedule AND p.due_at < o.due_at AND p.ran_at < o.ran_at
                     ORDER BY p.due_at DESC LIMIT 1), '-infinity'))) AS periods
    FROM outbox.calendar c
   CROSS JOIN LATERAL (
           SELECT m.*, CASE WHEN m.state = 'missed' AND NOT EXISTS (
                              SELECT FROM outbox.occurrence r
                               WHERE r.schedule = m.schedule AND r.period = m.period
                                 AND r.round > m.round AND r.state = 'ran') THEN 1 ELSE 0 END AS own
             FROM outbox.occurrence m
            WHERE m.schedule = c.name AND (m.state = 'missed' OR m.passed > 0)
              AND m.ran_at > statement_timestamp() - interval '7 days'
            ORDER BY m.ran_at DESC LIMIT $1) o
   WHERE c.kind = 'schedule'
), overdue AS (
  -- What came due by a rule that a live relay knows, and was not run or cut: nobody took it up, or its
  -- query fails.
  SELECT c.name, CASE c.kind WHEN 'cut' THEN c.name END AS sink, NULL AS example,
         concat_ws(': ', to_char(c.next_at AT TIME ZONE 'UTC', '"what was due at "YYYY-MM-DD HH24:MI:SS"Z is not done"'),
                   c.reason) AS reason
    FROM outbox.calendar c
   WHERE c.next_at + c.late_after < statement_timestamp()
     AND EXISTS (SELECT FROM live v
                  WHERE c.name = ANY (CASE c.kind WHEN 'schedule' THEN v.schedules ELSE v.sinks END))
     AND (c.kind = 'schedule'
          OR NOT EXISTS (SELECT FROM outbox.export e
                          WHERE e.sink = c.name AND e.state NOT IN ('published', 'empty')))
  UNION ALL
  -- Runs of the last days with messages that are still open, but for those that an operator lets wait.
  SELECT o.schedule, NULL, o.schedule || '/' || o.period, 'messages of ' || o.period || ' are still open'
    FROM outbox.calendar c
   CROSS JOIN LATERAL (
           SELECT r.schedule, r.period, r.first_id, r.last_id
             FROM outbox.occurrence r
            WHERE r.schedule = c.name AND r.first_id IS NOT NULL
              AND r.late_at < statement_timestamp() AND r.late_at > statement_timestamp() - interval '7 days'
            ORDER BY r.late_at DESC LIMIT least($1, 500)) o
   WHERE c.kind = 'schedule'
     AND EXISTS (
           -- Whatever is open within its span of ids: others wrote between them.
           SELECT FROM (SELECT w.message_id, w.sink, w.reason FROM outbox.delivery w
                         WHERE w.message_id BETWEEN o.first_id AND o.last_id
                         ORDER BY w.message_id LIMIT $1) d
             JOIN outbox.message m ON m.id = d.message_id
            WHERE m.headers @> jsonb_build_object('outboxd-schedule', o.schedule, 'outboxd-period', o.period)
              AND NOT starts_with(coalesce(d.reason, ''), 'route paused')
              AND NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name = d.sink AND s.paused))
  UNION ALL
  SELECT e.sink, e.sink, e.sink || '/' || e.period, 'the file of ' || e.period || ' is ' || e.state
    FROM outbox.export e
   WHERE e.state NOT IN ('published', 'empty') AND e.late_at < statement_timestamp()
  UNION ALL
  -- Files of the last days that no mail carries, though the config had one when they were cut.
  SELECT u.sink, u.sink, u.sink || '/' || u.period, 'the file of ' || u.period || ' is published and not mailed'
    FROM (SELECT e.sink, e.period FROM outbox.export e
           WHERE e.state = 'published' AND e.mailing IS NULL AND e.to_mail
             AND e.late_at < statement_timestamp() AND e.late_at > statement_timestamp() - interval '7 days'
           LIMIT $1) u
  UNION ALL
  SELECT m.sink, m.sink, m.sink || '/' || m.period, 'the mail of ' || m.period || ' is ' || m.state
    FROM (SELECT a.id, a.sink, a.period, a.state FROM outbox.mailing a
           WHERE a.state IN ('planned', 'built', 'sending', 'unsent')
          UNION ALL
          (SELECT a.id, a.sink, a.period, a.state FROM outbox.mailing a
            WHERE a.state IN ('held', 'dead') LIMIT $1)) m
   WHERE EXISTS (SELECT FROM outbox.export e
                  WHERE e.mailing = m.id AND e.late_at < statement_timestamp())
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
          OR EXISTS (SELECT FROM outbox.delivery d WHERE d.sink = n.name)
          OR EXISTS (SELECT FROM outbox.export e
                      WHERE e.sink = n.name AND e.state NOT IN ('published', 'empty'))
          OR EXISTS (SELECT FROM outbox.mailing m
                      WHERE m.sink = n.name AND m.state IN ('planned', 'built', 'sending', 'unsent')))
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
     -- What waits for a sink that cannot be reached, or behind a head that is dead or held, is told as that.
     AND NOT EXISTS (SELECT FROM outbox.flow f WHERE f.sink = l.sink AND f.open_since IS NOT NULL)
     AND NOT EXISTS (
           SELECT FROM outbox.delivery d
             JOIN outbox.delivery h ON h.sink = d.sink AND h.target = d.target AND h.key = d.key
            WHERE d.message_id = l.message_id AND d.sink = l.sink AND d.target = l.target
              AND h.message_id < d.message_id AND h.state IN ('dead', 'held'))
   GROUP BY l.sink
  UNION ALL
  SELECT 'paused', '', statement_timestamp(), 1, 0, 0, NULL, i.paused_for
    FROM outbox.installation i WHERE i.paused
  UNION ALL
  -- Processes that fell silent, by host, less those that began there since: of each host as many are missing
  -- as were not replaced. A process that reloads, or whose lease ran out for a while, has several rows and is
  -- there as long as one of them is.
  SELECT 'silent', q.host, q.since, q.count - x.count, 0, 0, q.id,
         CASE WHEN EXISTS (SELECT FROM outbox.sink s WHERE s.owner = ANY (q.ids))
              THEN 'nobody has taken its sinks yet' ELSE 'its sinks have other owners' END
    FROM (SELECT p.host, min(p.last_at) AS first_at, max(p.last_at) AS since, count(*) AS count,
                 array_agg(p.id) AS ids, (array_agg(p.id ORDER BY p.last_at DESC))[1] AS id
            FROM process p WHERE NOT p.alive GROUP BY p.host) q
   CROSS JOIN LATERAL (
           SELECT count(*) AS count FROM process a
            WHERE a.host = q.host AND a.began_at > q.first_at) x
   WHERE q.count > x.count
  UNION ALL
  SELECT 'missed', m.schedule, min(m.ran_at), sum(m.periods)::bigint, sum(m.periods)::bigint,
         extract(epoch FROM max(m.due_at) FILTER (WHERE m.periods > 0))::bigint,
         (array_agg(m.example ORDER BY m.due_at DESC) FILTER (WHERE m.example IS NOT NULL))[1], NULL
    FROM missed m
   GROUP BY m.schedule
  HAVING sum(m.periods) > 0
  UNION ALL
  -- What is paused shows as that.
  SELECT 'overdue', o.name, statement_timestamp(), count(*), 0, 0, min(o.example), min(o.reason)
    FROM overdue o
   WHERE NOT EXISTS (SELECT FROM outbox.installation i WHERE i.paused)
     AND NOT EXISTS (SELECT FROM outbox.sink s WHERE s.name = o.sink AND s.paused)
   GROUP BY o.name
  UNION ALL
  SELECT 'file', e.sink, e.opened_at, 1, 0, 0, e.sink || '/' || e.period, e.reason
    FROM outbox.export e
   WHERE e.state NOT IN ('published', 'empty') AND e.reason IS NOT NULL
  UNION ALL
  SELECT 'mail', n.name, x.since, x.count, x.count, x.newest, x.example, x.reason
    FROM sink n
   CROSS JOIN LATERAL (
           SELECT count(*) AS count, min(m.changed_at) AS since, max(m.id) AS newest,
                  (array_agg(n.name || '/' || m.period ORDER BY m.id DESC))[1] AS example,
                  (array_agg(concat_ws(': ', m.state, m.reason) ORDER BY m.id DESC))[1] AS reason
             FROM (SELECT s.id, s.period, s.state, s.reason, s.changed_at
                     FROM outbox.mailing s
                    WHERE s.sink = n.name AND s.state IN ('held', 'dead') LIMIT $1) m) x
   WHERE x.count > 0
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
  UPDATE outbox.alert a
     SET gone = true, last_seen_at = clock_timestamp(),
         -- A relay that nobody waits for any more is no recovery.
         told_news = CASE WHEN a.cause <> 'silent'
                            OR EXISTS (SELECT FROM outbox.relay r
                                        WHERE r.host = a.subject AND r.heartbeat_at > statement_timestamp() - r.lease)
                          THEN a.told_news END
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
