-- The last id that the sequence of messages gave away. Of the sequence itself: the catalogs do not tell where
-- one stands that was set and not used since, as after a restore.
SELECT CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END AS reached FROM outbox.message_id_seq q
