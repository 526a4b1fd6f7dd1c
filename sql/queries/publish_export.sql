-- Notes that the file stands. Without a fence, because it is true whoever owns the sink now.
-- $1 export
UPDATE outbox.export
   SET state = 'published', published_at = clock_timestamp(), reason = NULL
 WHERE id = $1 AND state = 'built'
