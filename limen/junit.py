"""Results of policy tests as JUnit XML, in the part that all readers share.

Only elements and attributes are written that both the schema of Ant's task and that of Jenkins' plugin know, in their
order. Text that XML cannot carry is escaped.
"""

from __future__ import annotations

import datetime as dt
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from policyengine.suite import Outcome

# what XML 1.0 section 2.2 cannot hold, escaped or not
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(outcomes: Sequence[Outcome], properties: Mapping[str, str], now: dt.datetime) -> str:
    """The document: a suite per test document, a case per case; the place stands in the failure's text.

    Times are 0: a decision takes microseconds, and a report that changes from run to run differs for nothing.
    """
    root = ET.Element("testsuites")
    for place, name in enumerate(dict.fromkeys(item.test for item in outcomes)):
        found = [item for item in outcomes if item.test == name]
        failed = [item for item in found if item.finding is not None]
        suite = ET.SubElement(
            root,
            "testsuite",
            {
                "name": _text(name),
                "timestamp": now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S"),
                "hostname": "localhost",
                "tests": str(len(found)),
                "failures": str(len(failed)),
                "errors": "0",
                "time": "0",
                "package": "policies",
                "id": str(place),
            },
        )
        listed = ET.SubElement(suite, "properties")
        for key, value in properties.items():
            ET.SubElement(listed, "property", {"name": _text(key), "value": _text(value)})
        for item in found:
            case = ET.SubElement(
                suite, "testcase", {"name": _text(item.case.name), "classname": _text(name), "time": "0"}
            )
            if item.finding is not None:
                failure = ET.SubElement(
                    case, "failure", {"message": _text(item.finding.message), "type": item.finding.code}
                )
                failure.text = _text(f"{item.finding}\n{item.finding.help}")
        ET.SubElement(suite, "system-out")
        ET.SubElement(suite, "system-err")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _text(text: str) -> str:
    return _NOT_XML.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
