-- Names the installation, once; a relay with another name works nothing here. A cluster that told its
-- identifier to nobody at first may do so now.
-- $1 name
INSERT INTO outbox.installation AS i (name) VALUES ($1)
    ON CONFLICT ON CONSTRAINT installation_pk
    DO UPDATE SET system_identifier = outbox.cluster() WHERE i.system_identifier IS NULL
