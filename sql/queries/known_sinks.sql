-- Every sink there is a row or a delivery of. Distinct sinks among millions of deliveries: one
-- step of the fetch index each, where DISTINCT would read it all.
WITH RECURSIVE worked AS (
  (SELECT d.sink FROM outbox.delivery d WHERE d.sink > '' ORDER BY d.sink LIMIT 1)
  UNION ALL
  SELECT (SELECT d.sink FROM outbox.delivery d WHERE d.sink > w.sink ORDER BY d.sink LIMIT 1)
    FROM worked w
   WHERE w.sink IS NOT NULL
)
SELECT w.sink AS name FROM worked w WHERE w.sink IS NOT NULL
UNION
SELECT s.name FROM outbox.sink s
 ORDER BY name
