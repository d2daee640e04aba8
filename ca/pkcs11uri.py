"""PKCS#11 URIs (RFC 7512), as far as they name a token: which library, which token, and the file with its PIN.

A PIN stands in a file or is a systemd credential; in the URI itself every user of the machine would see it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
import urllib.parse

from mesh.problems import Invalid

MAX_PIN_BYTES = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenUri:
    """A token: its library, its label or serial number, where its PIN is, and the object it speaks of, if any."""

    module: pathlib.Path
    token: str
    serial: str
    pin_source: str
    object: str = ""


def parse_token_uri(text: str) -> TokenUri:
    """Read `pkcs11:token=LABEL[;object=LABEL]?module-path=FILE&pin-source=file:FILE|credential:NAME`.

    Raises Invalid LM1608 with the rule that the text breaks.
    """
    scheme, separator, rest = text.partition(":")
    if scheme != "pkcs11" or not separator:
        raise Invalid("LM1608", given=text, reason="it begins with `pkcs11:`")
    path, _, query = rest.partition("?")
    found = {**_attributes(path, ";", text), **_attributes(query, "&", text)}
    if "pin-value" in found:
        raise Invalid("LM1608", given="pkcs11:…", reason="a PIN on a command line is everybody's: use `pin-source`")
    unknown = set(found) - {"token", "serial", "object", "type", "module-path", "pin-source"}
    if unknown:
        raise Invalid("LM1608", given=text, reason=f"`{min(unknown)}` is no attribute that is used here")
    if not found.get("token") and not found.get("serial"):
        raise Invalid("LM1608", given=text, reason="it names the token by `token` or `serial`")
    if not found.get("module-path", "").startswith("/"):
        raise Invalid("LM1608", given=text, reason="`module-path` is the whole path of the token's library")
    return TokenUri(
        module=pathlib.Path(found["module-path"]),
        token=found.get("token", ""),
        serial=found.get("serial", ""),
        pin_source=found.get("pin-source", ""),
        object=found.get("object", ""),
    )


def _attributes(text: str, separator: str, whole: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in text.split(separator) if text else ():
        name, equals, value = item.partition("=")
        if not equals or name in found:
            raise Invalid("LM1608", given=whole, reason=f"`{item}` is not `name=value`, or stands twice")
        try:
            found[name] = urllib.parse.unquote(value, errors="strict")
        except UnicodeDecodeError as err:
            raise Invalid("LM1608", given=whole, reason=f"`{name}` is not UTF-8") from err
    return found


def read_pin(source: str) -> str:
    """Read the PIN from `file:PATH`, a path, or `credential:NAME` (systemd's LoadCredential).

    Raises Invalid LM1607 for a file that cannot be read or that others may read.
    """
    kind, _, rest = source.partition(":")
    if kind == "credential":
        if not rest or "/" in rest or rest.startswith("."):
            raise Invalid("LM1607", path=source, reason="a credential's name is no path")
        path = pathlib.Path(os.environ.get("CREDENTIALS_DIRECTORY", "/run/credentials/limen.service")) / rest
    else:
        path = pathlib.Path(rest if kind == "file" else source)
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MAX_PIN_BYTES + 1)
    except OSError as err:
        raise Invalid("LM1607", path=str(path), reason=err.strerror or type(err).__name__) from err
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
        raise Invalid("LM1607", path=str(path), reason="others may read it, or it is no plain file")
    try:
        pin = data.decode().strip("\r\n")
    except UnicodeDecodeError:
        pin = ""
    if not pin or len(data) > MAX_PIN_BYTES or "\n" in pin:
        raise Invalid("LM1607", path=str(path), reason="it holds no PIN on one line")
    return pin
