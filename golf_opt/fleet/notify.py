"""notify=URL: what happens to a fleet is told where apprise can tell it, by mail, chat or phone."""

from __future__ import annotations

import importlib.util
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.utils.said import Say


class Notifier:
    """Tells what happens.

    Args:
        url: of apprise's kinds; None: nothing is told. It may hold a password, and is not shown.
        say: prints a line to the user.

    Raises:
        UsageError: apprise is missing, or knows no such URL.
    """

    def __init__(self, url: str | None, say: Say) -> None:
        self._say = say
        self._apprise: Any = None
        if url is None:
            return
        if importlib.util.find_spec("apprise") is None:
            raise UsageError(
                "notify=URL needs the package apprise, which is not installed: "
                "pip install 'golf-opt[notify]'"
            )
        import apprise

        self._apprise = apprise.Apprise()
        if not self._apprise.add(url):
            raise UsageError(
                "notify is no URL that apprise knows; it must look like mailto://..., ntfy://TOPIC "
                "or json://HOST."
            )

    def tell(self, what: str) -> None:
        """Tell it; where that fails, the fleet goes on."""
        if self._apprise is not None and not self._apprise.notify(title="golf-opt", body=what):
            self._say("what happened could not be told to the URL of notify=")
