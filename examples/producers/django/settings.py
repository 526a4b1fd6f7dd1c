import os
from urllib.parse import unquote, urlsplit

url = urlsplit(os.environ["DATABASE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path[1:],
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname,
        "PORT": url.port,
        # Behind a pooler in transaction mode: server-side cursors outlive their transaction.
        "DISABLE_SERVER_SIDE_CURSORS": True,
        # Each test suite has its database.
        "TEST": {"NAME": f"{url.path[1:]}_django"},
    }
}
INSTALLED_APPS = ["outbox", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "nothing here is signed"
USE_TZ = True
