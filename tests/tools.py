"""Tools of other people that some tests need: skips name what is missing; `.ci/run` installs all and fails on skips."""

import os
import shutil

import pytest


def needs(*names: str) -> pytest.MarkDecorator:
    """A test that needs these commands."""
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def require(*names: str) -> None:
    """Skip the test that runs unless these commands are there."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def require_opa() -> None:
    """Skip the test that runs unless there is an OPA, on PATH or by LIMEN_OPA."""
    if shutil.which(os.environ.get("LIMEN_OPA") or "opa") is None:
        pytest.skip("not installed: opa (.ci/run builds it)")


def require_envoy() -> str:
    """Skip the test that runs unless there is an Envoy: the extra `envoy`, ENVOY_PATH or PATH."""
    from limen.envoy import find_envoy
    from mesh.problems import NotFound

    try:
        return find_envoy()
    except NotFound:
        pytest.skip("not installed: envoy (the extra of that name)")
