-- Which migrations ran, with the hash of the text of each, and from which version on a relay can work with
-- it: a column that the first migration did not have yet.
SELECT m.number, m.name, m.sha256, (to_jsonb(m) ->> 'works_from')::integer AS works_from
  FROM outbox.migration m
 ORDER BY m.number
