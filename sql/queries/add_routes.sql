-- Mirrors the config's routes; set_bells.sql comes after it.
-- $1 patterns, $2 sinks, $3 targets, $4 exact, $5 prefixes, $6 regular expressions, $7 specificities
INSERT INTO outbox.route (pattern, sink, target, exact, prefix, regex, specificity)
SELECT r.pattern, r.sink, r.target, r.exact, r.prefix, r.regex, r.specificity
  FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::integer[])
       AS r (pattern, sink, target, exact, prefix, regex, specificity)
