"""The smallest fix written into the files of a policy tree: only the lines that it is about change.

A fix is about rules (`policyengine.fixes`); where those stand is known of a tree that was read from files. The edited
files are read again as a whole, and have to allow the request by what was changed, before anybody writes them. What a
person has to decide is not written: what the caller would have to present, and until when an exception holds.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from mesh.problems import Invalid, Severity
from mesh.request import Effect, Request
from policyengine import model, reference
from policyengine.edits import add_rule, change_rule, policy_text, remove_rule, rule_in
from policyengine.fixes import Fix, changed_by
from policyengine.loader import read_tree
from policyengine.treefiles import TreeFile
from policyengine.wire import rule_to_json


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Files with their new text, and what the tree says then."""

    files: tuple[TreeFile, ...]
    policies: model.PolicySet


def fixed(
    root: pathlib.Path, files: Sequence[TreeFile], policies: model.PolicySet, request: Request, fix: Fix
) -> Fixed:
    """Make a fix in the files that a policy set was read from.

    1. EVERY rule that the fix changes is edited where it stands; a new one comes behind the others of its tier, or into
       a policy of its own beside the service.
    2. The tree is read again. It has no error, and the request is allowed: otherwise nothing is to be written.

    Raises Invalid LM2206 with the reason, LM2712 where the files cannot be edited line by line.
    """
    if any(change.renews for change in fix.changes):
        raise _refused("an exception ends when people said it would: give it another `until`, with a reason")
    if not any(change.is_edit for change in fix.changes) and fix.addition is None:
        raise _refused(f"no rule has to change, the request has to: {fix.miss.fix}")
    texts = {str(file.path): file.text for file in files}
    # (1)
    after = changed_by(policies, request, fix)
    for policy, old, new in _changed_rules(policies, after):
        file = _file_of(policies, policy)
        texts[file] = _edited(texts[file], policy, old, new)
    if fix.addition is not None:
        file, text = _added(texts, policies, request, *fix.addition)
        texts[file] = text
    # (2)
    edited = tuple(dataclasses.replace(file, text=texts[str(file.path)]) for file in files)
    found, _, diagnostics = read_tree(root, edited)
    errors = [item for item in diagnostics if item.severity is Severity.ERROR]
    if errors:
        raise _refused(f"the tree would have an error: {errors[0]}")
    asked = request
    for change in fix.changes:
        asked = change.on_request(asked)
    found = dataclasses.replace(found, custom=policies.custom)
    if reference.decide(found, asked, snapshot="").policy_effect is not Effect.ALLOW:
        raise _refused("the files say something in other words than the fix: edit them by hand")
    changed = tuple(new for new, old in zip(edited, files, strict=True) if new.text != old.text)
    return Fixed(files=changed, policies=found)


def _refused(reason: str) -> Invalid:
    return Invalid("LM2206", reason=reason)


def _changed_rules(
    before: model.PolicySet, after: model.PolicySet
) -> Iterator[tuple[str, model.Rule, model.Rule | None]]:
    """The rules that differ, by policy; None is a rule that is gone."""
    rules = {(policy.name, rule.id): rule for policy in after.policies for rule in policy.rules}
    for policy in before.policies:
        for rule in policy.rules:
            found = rules.get((policy.name, rule.id))
            if found != rule:
                yield policy.name, rule, found


def _file_of(policies: model.PolicySet, name: str) -> str:
    policy = next(found for found in policies.policies if found.name == name)
    span = next((rule.span for rule in policy.rules if rule.span is not None), None)
    if span is None:
        raise _refused(f"nobody knows in which file policy `{name}` stands")
    return span.file


def _edited(text: str, policy: str, old: model.Rule, new: model.Rule | None) -> str:
    """The text of a file with one rule changed, or gone."""
    if new is None:
        return remove_rule(text, policy, old.id)
    wanted = _carried(rule_in(text, policy, old.id), rule_to_json(old), rule_to_json(new))
    assert isinstance(wanted, dict), "a rule is a mapping"
    return change_rule(text, policy, old.id, wanted)


def _carried(plain: object, old: object, new: object) -> object:
    """What stands in a file, changed as the rule is: what people wrote in their own form keeps it."""
    if isinstance(plain, dict) and isinstance(old, dict) and isinstance(new, dict):
        kept = {
            name: _carried(value, old[name], new[name]) if name in old and name in new else value
            for name, value in plain.items()
            if name in new or name not in old
        }
        return {**kept, **{name: value for name, value in new.items() if name not in old}}
    if isinstance(plain, list) and isinstance(old, list) and isinstance(new, list):
        if len(plain) == len(old) == len(new) and any(isinstance(item, dict) for item in plain):
            return [_carried(*items) for items in zip(plain, old, new, strict=True)]
        gone = [item for item in old if item not in new]
        return [*(item for item in plain if item not in gone), *(item for item in new if item not in old)]
    return plain if old == new else new


def _added(
    texts: Mapping[str, str], policies: model.PolicySet, request: Request, tier: model.Tier, rule: model.Rule
) -> tuple[str, str]:
    """The file that a new rule goes into, with its text."""
    service = policies.service_for(request.service)
    assert service is not None, "the fix is about a service"
    name = _word(rule.from_[0].name)
    beside = sorted((p for p in policies.policies_for(service.name) if p.tier == tier), key=lambda found: found.name)
    if beside:
        policy = beside[0]
        taken = {found.id for found in policy.rules}
        named = {**rule_to_json(rule), "id": _free(name, taken)}
        file = _file_of(policies, policy.name)
        return file, add_rule(texts[file], policy.name, named)
    if service.span is None:
        raise _refused(f"nobody knows in which file service `{service.name}` stands")
    title = _free(f"{service.name}-{tier}", {found.name for found in policies.policies})
    file = service.span.file
    document = policy_text(title, service.owner, service.name, tier, {**rule_to_json(rule), "id": name})
    return file, f"{texts[file].rstrip()}\n---\n{document}"


def _word(identity: str) -> str:
    """A rule's id after the last part of a caller's identity."""
    found = "".join(char if char.isalnum() and char.isascii() else "-" for char in identity.rpartition("/")[2].lower())
    return found.strip("-") or "caller"


def _free(name: str, taken: set[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found
