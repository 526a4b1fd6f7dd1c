-- Pauses the installation, or lets it go on; answers whether that changed anything.
-- $1 whether to pause it, $2 actor
SELECT outbox.pause_all($1, $2) AS changed
