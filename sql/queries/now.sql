-- The database's clock, which decides what is due and when something was closed.
SELECT clock_timestamp() AS now
