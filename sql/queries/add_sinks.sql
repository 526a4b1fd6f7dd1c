-- A row for each sink of the config, once and for all.
-- $1 names, $2 kinds
INSERT INTO outbox.sink (name, kind)
SELECT s.name, s.kind FROM unnest($1::text[], $2::text[]) AS s (name, kind)
    ON CONFLICT ON CONSTRAINT sink_pk DO UPDATE SET kind = excluded.kind
 WHERE outbox.sink.kind <> excluded.kind
