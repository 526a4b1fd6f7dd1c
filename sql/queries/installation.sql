-- Whose outbox this is, whether producers may ring, and the bells' advisory lock class.
SELECT name, doorbell, 'outbox.sink'::regclass::oid::integer AS bell_class
  FROM outbox.installation
