"""How problems travel: class, code and facts as JSON, with the HTTP status that fits the class."""

from __future__ import annotations

import secrets

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mesh.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Refused, Unavailable, sayable

_STATUS: tuple[tuple[type[Problem], int], ...] = (
    (NotFound, 404),
    (Refused, 409),
    (Conflict, 409),
    (Forbidden, 403),
    (Unavailable, 503),
    (Invalid, 422),
)


def problem_json(problem: Problem) -> dict[str, object]:
    """The JSON body of a problem; a client raises the same problem from it."""
    kind = next((found for found, _ in _STATUS if isinstance(problem, found)), Invalid)
    return {
        "problem": {
            "class": kind.__name__,
            "code": problem.code,
            "facts": {name: sayable(str(value)) for name, value in problem.facts.items()},
            "message": problem.message,
            "help": problem.help,
        }
    }


def mount(app: FastAPI) -> None:
    """Answer problems with their JSON, and bugs with a report id and nothing else."""

    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> JSONResponse:
        del request
        status = next((found for kind, found in _STATUS if isinstance(problem, kind)), 422)
        return JSONResponse(problem_json(problem), status)

    @app.exception_handler(RequestValidationError)
    async def on_malformed(request: Request, malformed: RequestValidationError) -> JSONResponse:
        del request
        # where and by which rule, never what stood there: a body may hold secrets
        found = {f"{'.'.join(str(part) for part in row['loc'])}: {row['type']}" for row in malformed.errors()}
        reason = ", ".join(sorted(found))[:500]
        return JSONResponse(problem_json(Invalid("LM1256", reason=reason)), 422)

    @app.exception_handler(HTTPException)
    async def on_refused(request: Request, refused: HTTPException) -> Response:
        if refused.status_code != 400:
            return await http_exception_handler(request, refused)
        return JSONResponse(problem_json(Invalid("LM1256", reason="it is no JSON")), 422)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, bug: Exception) -> JSONResponse:
        report = secrets.token_hex(6)
        structlog.get_logger().error("request failed", path=request.url.path, report=report, exc_info=bug)
        return JSONResponse(problem_json(Unavailable("LM0002", report=report)), 500)
