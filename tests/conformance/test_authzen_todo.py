"""The Todo scenario of the AuthZEN interoperability events: its people, its questions, and the answers it asks for.

Subjects are the scenario's base64 ids (`CiRmZD…`); a todo's owner is the property `ownerID`. The answers are those of
openid/authzen, interop/authzen-todo-backend/test/decisions-1.1-preview.json: forty evaluations and three batches, which
are lists as in AuthZEN 1.0 §7.1.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from policyengine.authzen import Pdp
from policyengine.lint import lint
from policyengine.loader import load_text

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
BACKEND = "spiffe://interop.test/ns/todo/sa/backend"
TODO = "7240d0db-8ff0-41ec-98b2-34a096273b9f"
PEOPLE = {
    "rick@the-citadel.com": "CiRmZDA2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
    "morty@the-citadel.com": "CiRmZDE2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
    "summer@the-smiths.com": "CiRmZDI2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
    "beth@the-smiths.com": "CiRmZDM2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
    "jerry@the-smiths.com": "CiRmZDQ2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
}
RICK, MORTY, SUMMER, BETH, JERRY = PEOPLE
VIEWERS = list(PEOPLE.values())
EDITORS = [PEOPLE[RICK], PEOPLE[MORTY], PEOPLE[SUMMER]]


def service(name: str) -> str:
    return f"""\
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: {name}, owner: interop}}
spec:
  identities: ["spiffe://interop.test/ns/todo/sa/{name}"]
  ports: [{{port: 443, protocol: http}}]
---
"""


def rule(identifier: str, action: str, people: list[str], owner: str | None = None) -> str:
    header = f", headers: {{x-resource-ownerid: [{owner!r}]}}" if owner else ""
    return f"""\
  - id: {identifier}
    effect: allow
    from: ["{BACKEND}"]
    to: [{{methods: [{action.upper()}], paths: ["/{{id}}"]}}]
    when: {{claims: {{issuer: "authzen:user", sub: {people}}}{header}}}
"""


def policy(name: str, rules: list[str]) -> str:
    head = f"apiVersion: limen.dev/v1\nkind: Policy\nmetadata: {{name: {name}s, owner: interop}}\n"
    return f"{head}spec:\n  service: {name}\n  tier: app\n  rules:\n{''.join(rules)}---\n"


TREE = (
    service("user")
    + service("todo")
    + policy("user", [rule("viewers", "can_read_user", VIEWERS)])
    + policy(
        "todo",
        [
            rule("viewers", "can_read_todos", VIEWERS),
            rule("editors", "can_create_todo", EDITORS),
            rule("evil-genius", "can_update_todo", [PEOPLE[RICK]]),
            rule("admin", "can_delete_todo", [PEOPLE[RICK]]),
            *(
                rule(f"own-{owner.partition('@')[0]}-{verb}", f"can_{verb}_todo", [PEOPLE[owner]], owner)
                for owner in (MORTY, SUMMER)
                for verb in ("update", "delete")
            ),
        ],
    )
)


@pytest.fixture(scope="module")
def pdp() -> Pdp:
    policies, findings = load_text(TREE, "todo.yaml")
    assert findings == []
    assert lint(policies, NOW) == []
    return Pdp(policies, "interop")


def question(who: str, action: str, resource: dict[str, Any]) -> dict[str, Any]:
    return {"subject": {"type": "user", "id": PEOPLE[who]}, "action": {"name": action}, "resource": resource}


def todo(owner: str | None) -> dict[str, Any]:
    return {"type": "todo", "id": TODO, "properties": {"ownerID": owner}} if owner else {"type": "todo", "id": "todo-1"}


def user(email: str) -> dict[str, Any]:
    return {"type": "user", "id": email}


QUESTIONS: list[tuple[str, str, dict[str, Any], bool]] = []
for _who in PEOPLE:
    _is_editor = _who in {RICK, MORTY, SUMMER}
    # another's todo is Rick's; for Rick it is Morty's
    _other = MORTY if _who == RICK else RICK
    QUESTIONS += [
        (_who, "can_read_user", user(BETH), True),
        (_who, "can_read_user", user(_who), True),
        (_who, "can_read_todos", todo(None), True),
        (_who, "can_create_todo", todo(None), _is_editor),
        (_who, "can_update_todo", todo(_who), _is_editor),
        (_who, "can_update_todo", todo(_other), _who == RICK),
        (_who, "can_delete_todo", todo(_who), _is_editor),
        (_who, "can_delete_todo", todo(_other), _who == RICK),
    ]


@pytest.mark.parametrize(
    ("who", "action", "resource", "expected"),
    QUESTIONS,
    ids=[f"todo-{who.partition('@')[0]}-{action}-{place}" for place, (who, action, *_) in enumerate(QUESTIONS)],
)
def test_every_evaluation_has_the_answer_of_the_scenario(
    pdp: Pdp, who: str, action: str, resource: dict[str, Any], *, expected: bool
) -> None:
    assert pdp.evaluate(question(who, action, resource), caller=BACKEND, now=NOW)["decision"] is expected


@pytest.mark.parametrize(
    ("who", "owners", "expected"),
    [(RICK, [RICK, JERRY], [True, True]), (MORTY, [RICK, MORTY], [False, True]), (JERRY, [RICK, JERRY], [False] * 2)],
)
def test_every_batch_has_the_answers_of_the_scenario(
    pdp: Pdp, who: str, owners: list[str], expected: list[bool]
) -> None:
    body = {
        "subject": {"type": "user", "id": PEOPLE[who]},
        "action": {"name": "can_update_todo"},
        "evaluations": [{"resource": todo(owner)} for owner in owners],
    }
    found: Any = pdp.evaluate_all(body, caller=BACKEND, now=NOW)
    assert [row["decision"] for row in found["evaluations"]] == expected


def test_nobody_else_may_ask_on_their_behalf(pdp: Pdp) -> None:
    body = question(RICK, "can_read_todos", todo(None))
    assert pdp.evaluate(body, caller="spiffe://interop.test/ns/todo/sa/other", now=NOW)["decision"] is False
