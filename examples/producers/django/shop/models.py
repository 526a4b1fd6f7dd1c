from django.db import models


class Order(models.Model):
    customer = models.TextField()
    email = models.TextField()
    total = models.DecimalField(max_digits=12, decimal_places=2)
