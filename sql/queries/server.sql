-- Whom we are talking to, and as whom.
-- $1 name of the relays' group role
SELECT current_setting('server_version_num')::integer AS number,
       current_setting('server_version') AS version, current_database()::text AS database,
       current_user::text AS role, pg_is_in_recovery() AS standby,
       to_regrole($1) IS NOT NULL AS has_group
