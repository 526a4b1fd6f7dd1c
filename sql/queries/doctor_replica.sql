-- For whom sessions begin in replica mode, in which no trigger fires; as ALTER names them.
SELECT CASE WHEN s.setrole = 0 THEN format('DATABASE %I', d.datname)
            WHEN s.setdatabase = 0 THEN format('ROLE %I', pg_get_userbyid(s.setrole))
            ELSE format('ROLE %I IN DATABASE %I', pg_get_userbyid(s.setrole), d.datname) END AS who
  FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
 WHERE (s.setdatabase = 0 OR d.datname = current_database())
   AND 'session_replication_role=replica' = ANY (s.setconfig)
 ORDER BY 1
