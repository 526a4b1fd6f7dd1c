-- The sequence that ids of messages come from, whether our role may read it, and the highest id that is
-- still known.
-- $1 schema
SELECT s.seqrelid::regclass::text AS sequence, s.seqcache AS cache,
       has_sequence_privilege(s.seqrelid, 'SELECT') AS readable,
       greatest(0, (SELECT max(m.id) FROM outbox.message m), (SELECT max(d.message_id) FROM outbox.delivery d),
                (SELECT max(l.message_id) FROM outbox.ledger l)) AS highest
  FROM pg_catalog.pg_sequence s
  JOIN pg_catalog.pg_depend o ON o.objid = s.seqrelid AND o.deptype = 'i' AND o.classid = 'pg_class'::regclass
  JOIN pg_catalog.pg_class c ON c.oid = o.refobjid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = 'message'
