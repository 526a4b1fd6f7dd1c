-- Whether the outbox was ever made here. Names are looked up, so no right is needed.
SELECT to_regclass('outbox.migration') IS NOT NULL AS made
