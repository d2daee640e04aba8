"""`STATE/acme.yaml` as it is now: read again on a change, the last good one kept."""

from __future__ import annotations

import pathlib

import structlog

from ca.acme.config import Config, load_config
from mesh.problems import Invalid


class AcmeFile:
    """The file of a state. One with an error changes nothing; what is wrong is logged once."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._path = folder / "acme.yaml"
        self._text: str | None = None
        self._config = Config()

    def read(self) -> Config:
        """The configuration of now; without the file, the safe one."""
        try:
            text = self._path.read_text("utf-8") if self._path.exists() else ""
        except (OSError, UnicodeDecodeError) as err:
            structlog.get_logger().warning("acme.yaml cannot be read", reason=str(err))
            return self._config
        if text != self._text:
            self._text = text
            try:
                self._config = load_config(text, str(self._path)) if text else Config()
            except Invalid as problem:
                structlog.get_logger().error("acme.yaml kept as it was", finding=str(problem), help=problem.help)
        return self._config
