"""Label selectors of Kubernetes: `matchLabels` and `matchExpressions`, all of them ANDed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mesh.yamlio import Node
from policyengine.importers.documents import Document

OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


@dataclasses.dataclass(frozen=True, slots=True)
class Selector:
    """A label selector. Empty, it selects everything."""

    labels: tuple[tuple[str, str], ...] = ()
    expressions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether a set of labels is selected."""
        return all(labels.get(key) == value for key, value in self.labels) and all(
            _holds(labels, *expression) for expression in self.expressions
        )

    def may_fit(self, labels: Mapping[str, str]) -> bool:
        """Whether a set of labels is selected when it has more labels than are known."""
        return all(labels.get(key, value) == value for key, value in self.labels) and all(
            expression[0] not in labels or _holds(labels, *expression) for expression in self.expressions
        )


def _holds(labels: Mapping[str, str], key: str, operator: str, values: tuple[str, ...]) -> bool:
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return labels.get(key) not in values
    return (key in labels) == (operator == "Exists")


def read_selector(document: Document, node: Node | None) -> Selector:
    """A selector; one that is not there selects everything.

    Raises Malformed, and notes it with the document.
    """
    if node is None:
        return Selector()
    document.only(node, ("matchLabels", "matchExpressions"))
    expressions = []
    for item in document.items(node, "matchExpressions") or ():
        document.only(item, ("key", "operator", "values"))
        key, operator = document.text(item, "key"), document.text(item, "operator")
        values = document.texts(item, "values") or ()
        if not key or operator not in OPERATORS or bool(values) != operator.endswith("In"):
            raise document.malformed("matchExpressions", "a key, an operator and its values", item)
        expressions.append((key, operator, values))
    return Selector(tuple(sorted(document.labels(node, "matchLabels").items())), tuple(expressions))
