-- Which server process answers: another one at the next call, or one for two sessions, tells of a pooler.
SELECT pg_backend_pid() AS pid
