-- Whether this set of routes is in force, and whether it ever was.
-- $1 hash
SELECT coalesce((SELECT s.hash = $1 FROM outbox.route_set s ORDER BY s.generation DESC LIMIT 1), false) AS in_force,
       EXISTS (SELECT FROM outbox.route_set s WHERE s.hash = $1) AS known
