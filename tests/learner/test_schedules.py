import pytest

from learner.schedules import Schedule, ScheduleError, hours_a_day, period_days, read_schedules, unseen

CRONJOB = """
apiVersion: batch/v1
kind: CronJob
metadata: {name: close, namespace: billing}
spec:
  schedule: "0 0 1 * *"
  jobTemplate:
    spec:
      template:
        spec:
          serviceAccountName: closer
          containers: []
"""
TIMER = "[Unit]\nDescription=x\n[Timer]\nOnCalendar=Mon *-*-* 03:00:00\nPersistent=true\n"
CRONTAB = "# m h dom mon dow\nMAILTO=root\n15 3 * * 0 root /usr/local/bin/backup --all\n@monthly /opt/report\n"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (CRONJOB, "c.yaml", [("/ns/billing/sa/closer", 31)]),
        (TIMER, "/etc/systemd/system/nightly.timer", [("/nightly", 7)]),
        (CRONTAB, "crontab", [("/backup", 7), ("/report", 31)]),
        ('{"spiffe_id": "spiffe://td/a", "destination": "spiffe://td/b", "cron": "0 * * * *"}\n', "s.jsonl",
         [("spiffe://td/a", 1)]),
    ],
    ids=["cronjob", "timer", "crontab", "rows"],
)  # fmt: skip
def test_each_form_is_read(text: str, name: str, expected: list[tuple[str, int]]) -> None:
    assert [(item.spiffe_id, item.period_days) for item in read_schedules(text, name)] == expected


@pytest.mark.parametrize(
    ("cron", "days"),
    [
        ("* * * * *", 1), ("0 0 1 * *", 31), ("0 0 1,15 * *", 16), ("0 0 * * 1", 7), ("0 0 1 1 *", 366),
        ("0 0 */5 * *", 5), ("@weekly", 7), ("monthly", 31), ("*-*-01 00:00:00", 31), ("*-01-01", 366), ("15min", 1),
    ],
)  # fmt: skip
def test_how_far_apart_two_runs_can_be(cron: str, days: int) -> None:
    assert period_days(cron) == days


@pytest.mark.parametrize(
    ("text", "name", "line"), [("{}\n", "a", 1), ("x\n", "crontab", 1), ("[Unit]\n", "a.timer", 1)]
)
def test_what_declares_nothing_names_its_line(text: str, name: str, line: int) -> None:
    with pytest.raises(ScheduleError) as caught:
        read_schedules(text, name)
    assert caught.value.line == line


def test_a_schedule_without_traffic_is_unseen() -> None:
    declared = [Schedule("/ns/a/sa/job", "", "@monthly"), Schedule("spiffe://td/x", "spiffe://td/y", "@daily")]
    assert unseen(declared, [("spiffe://td/ns/a/sa/job", "spiffe://td/db")]) == [declared[1]]
    assert unseen(declared, [("spiffe://td/x", "spiffe://td/other")]) == declared


@pytest.mark.parametrize(
    ("cron", "hours"),
    [
        ("0 3 * * *", 1), ("0 * * * *", 24), ("*/5 * * * *", 24), ("0 */6 * * *", 4), ("0 9-17 * * 1", 9),
        ("0 1,13 * * *", 2), ("0 2/6 * * *", 4), ("@daily", 1), ("@hourly", 24), ("*-*-* 03:00:00", 1),
        ("Mon 08..10:00", 3), ("15min", 24), ("0 noon * * *", 24),
    ],
)  # fmt: skip
def test_at_how_many_hours_of_a_day_it_runs(cron: str, hours: int) -> None:
    assert hours_a_day(cron) == hours
