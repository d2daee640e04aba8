"""`STATE/identities.yaml` as it is now: read again whenever the file changed, and the last good rules kept.

Of a large file only what changed is read again (`ca.rulefile`), so that a change takes hold while its author looks.
"""

from __future__ import annotations

import gc
import hashlib
import pathlib
from typing import Any

import structlog

from ca.registration import RuleSet
from ca.rulefile import Loaded, has_errors, read_rules
from limen.filereport import report
from mesh.problems import Severity

Json = Any
MAX_TOLD = 100
"""How many findings of one reading are logged, each on a line of its own."""
# reading many rules makes many objects that live for long: no reason to look through all of them for cycles
_MANY = 10_000


class RulesFile:
    """The rules of a file. A file with an error changes nothing; what is wrong is logged once."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int, int] | None = None
        self._is_read = False
        self._loaded: Loaded | None = None
        self.rules = RuleSet()
        self._unreadable = ""
        self.text = ""
        self.sha256 = hashlib.sha256().hexdigest()
        # follows from the file: agents that come back to a server which began anew must not take others for the same
        self.version = 0

    def refresh(self) -> bool:
        """Look at the file; return whether the rules changed. A missing file has no rules."""
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        except OSError:
            stamp = None
        if self._is_read and stamp == self._stamp:
            return False
        self._is_read, self._stamp = True, stamp
        self._unreadable = ""
        if stamp is None:
            self._loaded = None
            return self._use(b"", "", RuleSet())
        return self._read()

    def report(self) -> Json:
        """How the file stands: what is wrong with it as it is now, and how many rules are in force."""
        findings = [] if self._loaded is None else self._loaded.findings
        return report(self._path, count=len(self.rules.rules), findings=findings, unreadable=self._unreadable)

    def _read(self) -> bool:
        log = structlog.get_logger()
        try:
            data = self._path.read_bytes()
            # as a text file is read: every kind of line end is one
            text = data.decode("utf-8")
            if "\r" in text:
                text = text.replace("\r\n", "\n").replace("\r", "\n")
        except (OSError, UnicodeDecodeError) as err:
            self._unreadable = str(err)
            log.warning("identity rules cannot be read", reason=self._unreadable)
            return False
        self._loaded = loaded = self._parsed(text)
        # what forbids the file first: warnings may be many
        for finding in sorted(loaded.news, key=lambda item: item.severity is not Severity.ERROR)[:MAX_TOLD]:
            log.warning("identity rules", finding=str(finding), help=finding.help)
        if len(loaded.news) > MAX_TOLD:
            log.warning("identity rules", more=len(loaded.news) - MAX_TOLD)
        if has_errors(loaded.findings):
            log.error("identity rules kept as they were: the file has errors", file=str(self._path))
            return False
        return self._use(data, text, loaded.rules)

    def _parsed(self, text: str) -> Loaded:
        is_on = gc.isenabled()
        gc.disable()
        try:
            loaded = read_rules(text, str(self._path), self._loaded)
        finally:
            if is_on:
                gc.enable()
        if len(loaded.rules.rules) >= _MANY:
            gc.freeze()
        return loaded

    def _use(self, data: bytes, text: str, rules: RuleSet) -> bool:
        if self.version and rules == self.rules:
            return False
        self.text, self.rules = text, rules
        self.sha256 = hashlib.sha256(data).hexdigest()
        # 0 is before anything was read
        self.version = int(self.sha256[:16], 16) or 1
        return True
