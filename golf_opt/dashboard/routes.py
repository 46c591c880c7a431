"""The one door of optuna-dashboard's routes: what they are asked, and how they answer.

The application answers what it did not expect with status 500 and a traceback in the log: an id
that no database can have, a body that is no mapping, an attribute that is no text. Here a mistake
of who asks is theirs (400, 404), and ours is told in one line.
"""

from __future__ import annotations

import functools
import json
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import optuna_dashboard
from bottle import HTTPError, HTTPResponse, Route, request, response
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from golf_opt.config import types
from golf_opt.utils.text import printable

PAGE = "/dashboard<:re:(/.*)?>"
STATIC = "/static/<filename:path>"
OURS = {  # in page/
    "golf-live.js": "text/javascript",
    "golf-phone.css": "text/css",
    "golf-read-only.css": "text/css",
}
THEIRS = (  # mistakes in a body that pydantic let through
    ValueError, TypeError, AttributeError, AssertionError, ArithmeticError, RecursionError,
    UpdateFinishedTrialError,
)  # fmt: skip
Callback = Callable[..., Any]
Key = Annotated[str, Field(min_length=1, max_length=500)]


class Body(BaseModel):
    """What any route takes in a body; no two mean different things by a name."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    study_name: types.StudyName | None = None
    directions: list[str] = []
    version: int | None = None
    body: str | None = None
    state: str | None = None
    values: list[float] | None = None
    user_attrs: dict[Key, JsonValue] = {}
    file: str | None = None
    filename: Annotated[str, Field(max_length=255)] = ""
    remove_associated_artifacts: bool = True
    mode: str = ""
    candidates: list[int] = []
    clicked: int = -1
    output_type: str = ""
    artifact_key: str | None = None


class Door:
    """A plugin of the dashboard's application (bottle) around what answers each of its routes.

    Args:
        pages: what adds figures and pictures; called with a route's callback and the route.
        write: whether the page offers edits.
        say: prints a line about a mistake of ours.
    """

    name, api = "door", 2

    def __init__(
        self, pages: Callable[[Callback, Route], Callback], write: bool, say: Callable[[str], None]
    ) -> None:
        self._pages, self._say = pages, say
        self._page = page(write)

    def apply(self, callback: Callback, route: Route) -> Callback:
        """Return what answers a route; bottle calls this once for each."""
        inner = getattr(callback, "__wrapped__", None)  # without what tells tracebacks
        wrapped = self._pages(inner or callback, route)
        if route.rule == PAGE:
            wrapped = self._own_page
        elif route.rule == STATIC:
            wrapped = functools.partial(own_file, callback)
        return functools.partial(self._answer, wrapped, inner is not None)

    def _answer(self, callback: Callback, is_json: bool, **arguments: Any) -> Any:
        numbers = (value for value in arguments.values() if isinstance(value, int))
        if any(not 0 <= number <= types.MOST for number in numbers):
            return refuse(404)
        if is_json:
            response.content_type = "application/json"
        try:
            if request.method in ("POST", "PUT"):
                check_body()
            answer = callback(**arguments)
            return dumps(answer) if isinstance(answer, dict) else answer
        except HTTPError as error:  # raised by bottle: a body that is no JSON
            return refuse(error.status_code, str(error.body))
        except HTTPResponse:  # another page
            raise
        except (KeyError, ArtifactNotFound, ImportError):  # ImportError: plots without plotly
            return refuse(404)
        except (StorageInternalError, SQLAlchemyError) as error:
            self._tell(error)
            return refuse(503, "the storage does not answer")
        except Exception as error:
            theirs = THEIRS if request.method not in ("GET", "HEAD") else UnicodeError  # a header
            if isinstance(error, theirs):
                return refuse(400, "that is not what this takes")
            self._tell(error)
            return refuse(500, "this cannot be shown")

    def _tell(self, error: Exception) -> None:
        """Print one line about what went wrong and where."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        reason = printable(f"{type(error).__name__}: {error}")[:300]
        self._say(f"{request.method} {printable(request.path)[:200]}: {reason} ({place})")

    def _own_page(self, **_: Any) -> str:
        response.content_type = "text/html; charset=UTF-8"
        return self._page


def page(write: bool) -> str:
    """Return the page that everything is shown on, with ours in its head."""
    text = Path(optuna_dashboard.__file__).with_name("index.html").read_text()
    ours = '<script src="/static/golf-live.js"></script>'
    for name in ("golf-phone.css", *(() if write else ("golf-read-only.css",))):
        ours += f'<link rel="stylesheet" href="/static/{name}">'
    return text.replace("<head>", f"<head>\n    {ours}", 1)


def own_file(callback: Callback, filename: str) -> Any:
    """Answer with a file of ours, or of the application's."""
    if filename not in OURS:
        return callback(filename=filename)
    response.content_type = f"{OURS[filename]}; charset=UTF-8"
    return (Path(__file__).parent / "page" / filename).read_text()


def check_body() -> None:
    """Raise a ValueError for a body that no route takes."""
    if request.route.rule == "/incompatible-rdb-schema":
        return  # a form without fields
    try:
        Body.model_validate(request.json)
        dumps(request.json, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise HTTPError(400, printable(f"{where}: {first['msg']}")[:300]) from None


def refuse(status: int, reason: str = "there is nothing here") -> HTTPResponse:
    headers = {"Content-Type": "application/json"}
    return HTTPResponse(json.dumps({"reason": reason}), status, headers)


def dumps(value: Any, strict: bool = False) -> str:
    """Return JSON that a browser reads: numbers that it has none for become null.

    Raises:
        ValueError: there are such numbers, and `strict` refuses them.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        if strict:
            raise
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
