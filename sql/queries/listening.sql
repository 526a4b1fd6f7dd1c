-- How many channels this session listens on; asked on the LISTEN session itself, as a heartbeat.
SELECT count(*) AS channels FROM pg_listening_channels()
