-- The hash of the routes in force; none before the first relay.
SELECT s.hash FROM outbox.route_set s ORDER BY s.generation DESC LIMIT 1
