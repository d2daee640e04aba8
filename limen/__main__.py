"""The process edge of the `limen` command: turns problems into messages and exit statuses.

`python -m limen` and the installed `limen` are the same.
"""

from __future__ import annotations

import os
import sys

from limen.cli.main import cli


def main() -> None:
    """Run the command line and exit with the documented status."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command line and return its exit status."""
    import click  # noqa: PLC0415  already loaded by the root group

    try:
        result = cli.main(args=args, prog_name="limen", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # the reader of our output went away: nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as err:  # noqa: BLE001  the process edge
        return _report(err)
    else:
        return result if isinstance(result, int) else 0


def _report(err: Exception) -> int:
    from limen.cli import render  # noqa: PLC0415  only when something went wrong
    from mesh import problems  # noqa: PLC0415

    if isinstance(err, problems.Problem):
        render.diagnostics([err.diagnostic()])
        return err.exit_status
    report, trace = problems.bug_report(err)
    render.say(trace)
    message, advice = problems.render("LM0002", {"report": report})
    render.say(f"× LM0002 {message}\n    {advice}")  # noqa: RUF001  the field's check mark
    return 70


if __name__ == "__main__":
    main()
