-- Makes this cluster the installation's own, moves the ids and resumes.
-- $1 actor, $2 above which id or NULL
SELECT outbox.resume_restored($1, $2) AS first_id
