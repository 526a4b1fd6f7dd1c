-- Routes messages that stand there already, through the same matching as the trigger.
-- $1 message ids
SELECT outbox.route_existing($1) AS routed
