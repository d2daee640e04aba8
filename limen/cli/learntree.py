"""Policy trees as `limen learn` reads and writes them: a tree of its own, or one that is there and is changed."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from learner.proposal import ProposedService
from learner.revise import Revision
from limen.cli.can import usable
from mesh.problems import Conflict, Invalid
from policyengine.edits import add_rule, rule_in
from policyengine.loader import load_tree, read_tree
from policyengine.model import PolicySet
from policyengine.treefiles import read_files


def revision_of(tree: pathlib.Path) -> Revision:
    """A tree, to be changed.

    Raises Invalid LM2203 for one with errors.
    """
    files, _ = read_files(tree)
    policies, found = load_tree(tree)
    usable(policies, found, tree)
    return Revision(
        policies, {file.inside: file.text for file in files}, {str(file.path): file.inside for file in files}
    )


def add_egress(texts: dict[str, str], policies: PolicySet, service: ProposedService | None) -> str | None:
    """Put the rules of egress into a tree; the file that they are in, None where there is no rule.

    1. A gateway that the tree does not know gets a file of its own, and so does the policy.
    2. A policy that is there is kept, comments and all: rules that it lacks are added behind its own.
    """
    if service is None:
        return None
    head, policy = service.to_yaml().split("---\n")
    known = next((item for item in policies.policies if item.name == service.policy), None)
    # (1)
    if policies.service_for(service.identity) is None:
        texts[_free_file(f"{service.name}.yaml", texts)] = head
    if known is None:
        file = _free_file(f"{service.policy}.yaml", texts)
        texts[file] = policy
        return file
    # (2)
    file = next(name for name, text in sorted(texts.items()) if _holds(text, known.name, known.rules[0].id))
    there = {rule.id for rule in known.rules}
    for rule in service.rules:
        if rule.id not in there:
            texts[file] = add_rule(texts[file], known.name, rule.to_json())
    return file


def _holds(text: str, policy: str, rule: str) -> bool:
    try:
        rule_in(text, policy, rule)
    except Invalid:
        return False
    return True


def _free_file(name: str, texts: Mapping[str, str]) -> str:
    stem, number = name.removesuffix(".yaml"), 2
    while name in texts:
        name, number = f"{stem}-{number}.yaml", number + 1
    return name


def write_tree(texts: Mapping[str, str], out: pathlib.Path, tree: pathlib.Path | None = None) -> list[str]:
    """Write the files that differ; the paths of those that were written.

    A directory that holds other files is not written into, unless it is the tree itself.

    Raises Conflict LM4006, Invalid LM4033.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if tree is None or not out.samefile(tree):
            there = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
            strangers = [name for name in there if name not in texts]
            if strangers:
                raise Conflict("LM4006", directory=str(out), file=strangers[0])
        written = []
        for name, text in sorted(texts.items()):
            path = out / name
            if not path.exists() or path.read_bytes() != text.encode():
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f".{path.name}.new")
                draft.write_text(text, "utf-8")
                draft.replace(path)  # what is proposed can be proposed again: nothing waits for the disk
                written.append(str(path))
    except OSError as err:
        raise Invalid("LM4033", directory=str(out), reason=err.strerror or str(err)) from err
    return written


def policies_of(texts: Mapping[str, str]) -> PolicySet:
    """The policies that changed texts say.

    Raises AssertionError when they do not load: that is a bug of what changed them.
    """
    import dataclasses  # noqa: PLC0415

    from policyengine.treefiles import MODULE_SUFFIX, TreeFile  # noqa: PLC0415

    files = [
        TreeFile(path=pathlib.Path(name), inside=name, is_module=name.endswith(MODULE_SUFFIX), text=text)
        for name, text in sorted(texts.items())
    ]
    found, _, diagnostics = read_tree(pathlib.Path(), files)
    errors = [str(item) for item in diagnostics if item.severity == "error"]
    if errors:
        raise AssertionError(f"the changed tree does not load: {errors[:3]}")
    return dataclasses.replace(found)
