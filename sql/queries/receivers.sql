-- The sinks that messages of a type go to; an empty one where they go nowhere on purpose.
-- $1 type
SELECT DISTINCT r.sink FROM outbox.routes_of($1) r ORDER BY r.sink
