-- Whether nothing was ever sent from here, so that the installation's name stands in no key that is out.
SELECT i.sends_since IS NULL AND NOT EXISTS (SELECT FROM outbox.ledger) AS unsent
  FROM outbox.installation i
