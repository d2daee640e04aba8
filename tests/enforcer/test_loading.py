import pytest

from enforcer.loading import loading, loads_code, without


@pytest.mark.parametrize(
    "name",
    ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "NODE_OPTIONS", "BASH_ENV", "PERL5OPT"],
)
def test_variables_of_loaders_and_interpreters_load_code(name: str) -> None:
    assert loads_code(name)


@pytest.mark.parametrize("name", ["PATH", "HOME", "LANG", "PYTHONUNBUFFERED", "TZ", "OLD_PRELOAD", "ld_preload", ""])
def test_others_do_not(name: str) -> None:
    assert not loads_code(name)


def test_what_is_kept_stays_and_the_rest_is_named() -> None:
    given = {"PATH": "/bin", "PYTHONPATH": "/a", "LD_PRELOAD": "/b.so", "LD_AUDIT": "/c.so"}
    assert loading(given, {"LD_AUDIT"}) == ("LD_PRELOAD", "PYTHONPATH")
    assert without(given, {"LD_AUDIT"}) == ({"PATH": "/bin", "LD_AUDIT": "/c.so"}, ("LD_PRELOAD", "PYTHONPATH"))
