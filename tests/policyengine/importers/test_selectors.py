"""Label selectors, by Kubernetes' own table."""

import pytest

from policyengine.importers.documents import Malformed, read_documents, spec_of
from policyengine.importers.selectors import Selector, read_selector

LABELS = {"app": "db", "tier": "back"}


@pytest.mark.parametrize(
    ("selector", "fits", "may_fit"),
    [
        (Selector(), True, True),
        (Selector((("app", "db"),)), True, True),
        (Selector((("app", "web"),)), False, False),
        (Selector((("zone", "a"),)), False, True),
        (Selector((), (("app", "In", ("db", "x")),)), True, True),
        (Selector((), (("app", "NotIn", ("db",)),)), False, False),
        (Selector((), (("zone", "NotIn", ("a",)),)), True, True),
        (Selector((), (("zone", "Exists", ()),)), False, True),
        (Selector((), (("zone", "DoesNotExist", ()),)), True, True),
        (Selector((("app", "db"),), (("tier", "Exists", ()),)), True, True),
    ],
)
def test_a_selector_fits_labels_or_may_fit_when_there_are_more(selector, fits, may_fit) -> None:
    assert (selector.fits(LABELS), selector.may_fit(LABELS)) == (fits, may_fit)


@pytest.mark.parametrize(
    "text",
    [
        "{matchLabels: [a]}",
        "{matchLabel: {}}",
        "{matchExpressions: [{key: a, operator: Is, values: [b]}]}",
        "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
        "{matchExpressions: [{key: a, operator: In}]}",
    ],
)
def test_what_kubernetes_would_refuse_is_refused(text) -> None:
    (document,) = read_documents([("f", f"kind: A\nspec: {text}\n")])[0]
    with pytest.raises(Malformed):
        read_selector(document, spec_of(document))
