-- Names the installation, once; a relay with another name works nothing here.
-- $1 name
INSERT INTO outbox.installation (name) VALUES ($1) ON CONFLICT ON CONSTRAINT installation_pk DO NOTHING
