"""Whatever bytes come, a parser of the identity half gives a value or a Problem with a code, and soon.

A few hundred changed seeds of each parser in every run; `LIMEN_EXAMPLES` times as many where somebody waits for more,
and `make fuzz` as many as fit into its time. What was found once stands in `corpus/` and is tried in every run.
"""

import json
import os
import pathlib
import time
import warnings

import pytest
from cryptography.utils import CryptographyDeprecationWarning

from ca.acme import errors
from limen.api.problems import problem_json
from mesh.problems import Problem, catalogue
from tests.examples import examples
from tests.fuzz.mutation import WORDS, mutant, mutants
from tests.fuzz.parsers import TARGETS

CORPUS = pathlib.Path(__file__).parent / "corpus"
# an RSA key of 4,096 bits and a chain of six may be checked; nothing takes a second of a processor of today
MOST_S = 10.0


def attempt(name: str, data: bytes) -> str:
    """Run a target; return the code that it refused with, empty for a value. What is said of bytes can be sent."""
    target = TARGETS[name]
    begin = time.process_time()
    try:
        target.run(data)
        code = ""
    except Problem as problem:
        code = problem.code
        assert code in catalogue()
        for said in (problem_json(problem), errors.document(problem)[0], str(problem)):
            json.dumps(said, ensure_ascii=False).encode("utf-8")
    except ValueError as err:
        if not target.values:
            raise
        code = str(err).encode("utf-8", "replace").decode()[:80]
    assert time.process_time() - begin < MOST_S
    return code


def found_wrong(name: str, number: int, data: bytes) -> str:
    """What is wrong with an example, empty when nothing is; warnings do as in production, where they raise nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            attempt(name, data)
    except Exception as bug:  # noqa: BLE001  anything but a Problem is the finding
        return f"{name} #{number}: {type(bug).__name__}: {str(bug)[:200]!a}: {data[:2000]!r}"
    return ""


@pytest.mark.parametrize("name", TARGETS)
def test_good_seeds_are_taken(name: str) -> None:
    assert TARGETS[name].seeds
    codes = {attempt(name, seed) for seed in TARGETS[name].seeds}
    # the chip of the seeds is not one that is let in: it gets as far as that
    assert codes <= {"", "LM1247"} or (name == "tpm-quote" and "" in codes)


@pytest.mark.parametrize("name", TARGETS)
def test_any_changed_seed_gives_a_value_or_a_code(name: str) -> None:
    seeds = TARGETS[name].seeds
    wrong = [found_wrong(name, number, data) for number, data in enumerate(mutants(seeds, range(examples(250))))]
    wrong += [found_wrong(name, -1, word) for word in (b"", *WORDS)]
    assert [item for item in wrong if item] == []


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_stays_found(path: pathlib.Path) -> None:
    assert found_wrong(path.parent.name, 0, path.read_bytes()) == ""


def test_a_number_gives_the_same_bytes_everywhere_and_numbers_differ() -> None:
    seeds = (b'{"a": [1, "eyJhIjogIng1dCJ9"]}', bytes(range(256)))
    first = [mutant(seeds, number) for number in range(200)]
    assert first == list(mutants(seeds, range(200)))
    assert len(set(first)) > 150


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_numbers_beyond_until_time_is_up() -> None:
    """`make fuzz`: LIMEN_FUZZ_S seconds, every parser in turn, from a number that nobody tried yet.

    Without it 20 seconds from always the same number: a change is not judged by what chance finds elsewhere.
    """
    asked = os.environ.get("LIMEN_FUZZ_S")
    seconds = float(asked or "20")
    begin = str(time.time_ns() // 10**9) if asked else "1000000"
    number = int(os.environ.get("LIMEN_FUZZ_FROM", begin))  # a report names what it found
    wrong: list[str] = []
    tried, end = 0, time.monotonic() + seconds
    while time.monotonic() < end and len(wrong) < 20:
        for name, target in TARGETS.items():
            for _ in range(20):
                number += 1
                tried += 1
                wrong += filter(None, [found_wrong(name, number, mutant(target.seeds, number))])
    print(f"{tried} examples, {len(wrong)} findings")  # noqa: T201  `make fuzz` shows it
    assert wrong == []
