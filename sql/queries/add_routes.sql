-- Mirrors the config's routes. A CSV sink has no bell: it looks at the clock, not at each message.
-- $1 patterns, $2 sinks, $3 targets, $4 exact, $5 prefixes, $6 regular expressions, $7 specificities
INSERT INTO outbox.route (pattern, sink, target, exact, prefix, regex, specificity, bell)
SELECT r.pattern, r.sink, r.target, r.exact, r.prefix, r.regex, r.specificity,
       CASE WHEN i.doorbell AND s.kind <> 'csv' THEN s.bell END
  FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::integer[])
       AS r (pattern, sink, target, exact, prefix, regex, specificity)
 CROSS JOIN outbox.installation i
  LEFT JOIN outbox.sink s ON s.name = r.sink
