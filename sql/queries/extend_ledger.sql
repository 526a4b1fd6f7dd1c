-- Partitions for today and the days after.
SELECT outbox.extend_ledger()
