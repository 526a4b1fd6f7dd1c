-- Mirrors the config's routes; set_bells.sql comes after it.
-- $1 patterns, $2 sinks, $3 targets, $4 lanes, $5 exact, $6 prefixes, $7 regular expressions,
-- $8 specificities
INSERT INTO outbox.route (pattern, sink, target, lane, exact, prefix, regex, specificity)
SELECT r.pattern, r.sink, r.target, r.lane, r.exact, r.prefix, r.regex, r.specificity
  FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::boolean[], $6::text[],
              $7::text[], $8::integer[])
       AS r (pattern, sink, target, lane, exact, prefix, regex, specificity)
