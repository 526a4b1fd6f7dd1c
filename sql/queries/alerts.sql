-- What is in trouble, and what was and is not told as over; the longest first. With it when the cause
-- was last told of at all.
-- $1 limit
SELECT a.cause, a.subject, a.since, a.last_seen_at, a.count, a.news, a.newest, a.example, a.reason, a.gone,
       a.told_at, a.told_news, a.told_newest,
       extract(epoch FROM statement_timestamp() - a.since)::float8 AS age,
       (SELECT max(c.told_at) FROM outbox.alert c WHERE c.cause = a.cause) AS cause_told_at
  FROM outbox.alert a
 WHERE NOT a.gone OR a.told_news IS NOT NULL
 ORDER BY a.since, a.cause, a.subject
 LIMIT $1
