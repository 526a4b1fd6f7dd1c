-- Takes from a sink's limit before attempts begin, so that no crash and no hand-over forgets what was
-- begun. Spans are counted in buckets of a sixtieth of the period; a bucket counts in full as long as
-- any part of it lies within the period, so no span of that length ever holds more than the limit.
-- A day is the calendar's (UTC), in one bucket. Buckets further ahead than a period are from before the
-- database's clock was set back: they would use up the limit until their time comes. Answers how many may begin, and after how many ms more
-- may. The fence: see settle_open.sql.
-- $1 sink, $2 epoch, $3 "rate" or "day", $4 limit, $5 period in ms, $6 wanted
WITH fence AS MATERIALIZED (
  SELECT f.name FROM outbox.sink f WHERE f.name = $1 AND f.epoch = $2 FOR SHARE NOWAIT
), now AS MATERIALIZED (
  SELECT clock_timestamp() AS at,
         CASE $3 WHEN 'day' THEN date_trunc('day', clock_timestamp(), 'UTC')
                 ELSE date_bin($5 * interval '1 ms' / 60, clock_timestamp(), 'epoch') END AS bucket
), used AS MATERIALIZED (
  SELECT coalesce(sum(s.used), 0) AS used, min(s.bucket) AS oldest
    FROM now n
    LEFT JOIN outbox.spent s
      ON s.sink = $1 AND s.span = $3
     AND s.bucket > CASE $3 WHEN 'day' THEN n.bucket - interval '1 ms'
                            ELSE n.at - $5 * interval '1 ms' * 61 / 60 END
     AND s.bucket <= CASE $3 WHEN 'day' THEN n.bucket ELSE n.at + $5 * interval '1 ms' END
), granted AS MATERIALIZED (
  SELECT greatest(least($6, $4 - u.used), 0)::integer AS count FROM used u, fence
), kept AS (
  INSERT INTO outbox.spent AS s (sink, span, bucket, used)
  SELECT $1, $3, n.bucket, g.count FROM granted g, now n WHERE g.count > 0
      ON CONFLICT ON CONSTRAINT spent_pk DO UPDATE SET used = s.used + excluded.used
)
SELECT g.count,
       (extract(epoch FROM CASE $3
          WHEN 'day' THEN n.bucket + interval '1 day' - n.at
          ELSE coalesce(u.oldest, n.bucket) + $5 * interval '1 ms' * 61 / 60 - n.at END) * 1000)::bigint AS wait
  FROM granted g, now n, used u
