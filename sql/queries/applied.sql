-- Which migrations ran, with the hash of the text of each.
SELECT number, name, sha256 FROM outbox.migration ORDER BY number
