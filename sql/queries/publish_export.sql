-- Notes that the file stands. Without a fence, because it is true whoever owns the sink now; but not of a
-- file that was written anew since, with other bytes.
-- $1 export, $2 sha256
UPDATE outbox.export
   SET state = 'published', published_at = clock_timestamp(), reason = NULL
 WHERE id = $1 AND state = 'built' AND sha256 = $2
