from django.core.serializers.json import DjangoJSONEncoder
from django.db import models


class Message(models.Model):
    """What a producer may write, and no more: Django names every field in its INSERT.

    So a field for `created_at` would be refused: it is outboxd's to write.
    """

    id = models.BigAutoField(primary_key=True)
    type = models.TextField()
    # The encoder writes a Decimal as text, with all its digits.
    payload = models.JSONField(encoder=DjangoJSONEncoder)
    key = models.TextField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    dedupe_key = models.TextField(null=True, blank=True)
    headers = models.JSONField(null=True, blank=True)

    class Meta:
        # outboxd's migration makes it, and tells Django of the model's state.
        managed = False
        # Django has no word for a schema. It puts the name between quotes, so these two inside make
        # "outbox"."message" of it; 'outbox.message' would be one table of that name in public.
        db_table = 'outbox"."message'
