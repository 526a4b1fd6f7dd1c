-- Whether everything is paused, and what for.
SELECT i.paused, i.paused_for FROM outbox.installation i
