# db/structure.sql would hold the outbox without its rows and its rights. Not with `dump_schemas`: pg_dump
# writes a CREATE SCHEMA for a schema that it is asked for, and a new database has `public` already.
ActiveRecord::Tasks::DatabaseTasks.structure_dump_flags = ["--exclude-schema=outbox"]
