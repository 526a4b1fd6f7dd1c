-- Notes that the file stands. Without a fence, because it is true whoever owns the sink now.
-- $1 export, $2 file, $3 bytes, $4 sha256
UPDATE outbox.export
   SET state = 'published', published_at = clock_timestamp(), file = $2, bytes = $3, sha256 = $4,
       reason = NULL
 WHERE id = $1 AND state = 'closed'
