-- One relay at a time changes routes; held to the end of the transaction.
SELECT pg_advisory_xact_lock('outbox.route_set'::regclass::oid::bigint)
