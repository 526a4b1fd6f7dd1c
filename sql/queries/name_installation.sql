-- Gives the installation another name, as long as nothing was ever sent from it: a printed migration brings
-- the name of the config it was printed with into every database. Afterwards the name stands in keys that
-- are out, and stays. No row where that is so, or where it has the name already. Waits for a relay that is
-- just entering, and sees it.
-- $1 name
UPDATE outbox.installation i SET name = $1
 WHERE i.name <> $1 AND i.sends_since IS NULL AND NOT EXISTS (SELECT FROM outbox.ledger)
