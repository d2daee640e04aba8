"""`STATE/identities.yaml` as it is now: read again whenever the file changed, and the last good rules kept."""

from __future__ import annotations

import pathlib

import structlog

from ca.registration import RuleSet
from ca.rulefile import has_errors, load_rules


class RulesFile:
    """The rules of a file. A file with an error changes nothing; what is wrong is logged once."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int, int] | None = None
        self._is_read = False
        self.rules = RuleSet()
        self.text = ""
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
        return self._read() if stamp is not None else self._use("", RuleSet())

    def _read(self) -> bool:
        log = structlog.get_logger()
        try:
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as err:
            log.warning("identity rules cannot be read", reason=str(err))
            return False
        rules, findings = load_rules(text, str(self._path))
        for finding in findings:
            log.warning("identity rules", finding=str(finding), help=finding.help)
        if has_errors(findings):
            log.error("identity rules kept as they were: the file has errors", file=str(self._path))
            return False
        return self._use(text, rules)

    def _use(self, text: str, rules: RuleSet) -> bool:
        if self.version and rules == self.rules:
            return False
        self.text, self.rules = text, rules
        self.version += 1
        return True
