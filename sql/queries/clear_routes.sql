-- Makes room for the new set, in the same transaction.
DELETE FROM outbox.route
