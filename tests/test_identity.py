"""Days keep their zone, and machines their name."""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tables import Database, Machine, at, noon, read
from transcripts import Message, write_session

import ccusage_importer
from ccusage_importer import (
    ConfigError,
    Identity,
    Settings,
    identify,
    key_fingerprint,
    system_zone,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LATE = datetime(2025, 9, 30, 22, 30, tzinfo=timezone.utc)  # the next day east of London
SESSION = "00000000-0000-4000-8000-00000000000a"


@pytest.fixture
def machine(tmp_path: Path, database: Database) -> Machine:
    machine = Machine(tmp_path, database=database)
    write_session(machine.claude, "-home-a", SESSION, [Message(LATE)])
    return machine


def recorded(machine: Machine) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((machine.state / "machine.json").read_text())
    return content


def lose(machine: Machine) -> None:
    (machine.state / "machine.json").unlink()


def days(machine: Machine) -> list[str]:
    return sorted(str(key[1]) for key in machine.tables()["ccusage_usage_daily"])


# --- the zone ------------------------------------------------------------------------------


def test_the_first_import_records_name_zone_key_and_installation(machine: Machine) -> None:
    machine.imports("--quiet", PROJECT_HASH_KEY="k")
    identity = recorded(machine)
    hashed = identity.pop("hashed")
    newest = identity.pop("newest_run")
    assert newest == f"{machine.history('updated_at')[0][0]:%F %T.%f}"[:23]
    assert len(identity.pop("history_uuid")) == 36
    assert identity.keys() == {"machine_name", "timezone", "key_fingerprint", "installation_id"}
    assert (identity["machine_name"], identity["timezone"]) == ("m1", "UTC")
    assert identity["key_fingerprint"] == key_fingerprint("k") != "k"
    assert len(identity["installation_id"]) == 16
    assert hashed is True
    assert machine.history(*identity, "hashed_projects") == [(*identity.values(), 1)]


def test_days_stay_where_they_are_when_the_zone_of_the_machine_moves(machine: Machine) -> None:
    machine.imports("--quiet")
    assert days(machine) == ["2025-09-30"]
    before = machine.tables(keep=True)
    machine.imports("--quiet", TZ="Asia/Tokyo")
    assert machine.tables(keep=True) == before
    assert recorded(machine)["timezone"] == "UTC"


def test_the_zone_of_the_first_import_is_the_machines(machine: Machine) -> None:
    machine.imports("--quiet", TZ=":Asia/Tokyo")
    machine.imports("--quiet", TZ="UTC")
    assert days(machine) == ["2025-10-01"]
    assert machine.history("timezone") == [("Asia/Tokyo",)] * 2


def test_the_zone_of_the_first_import_may_be_chosen(machine: Machine) -> None:
    machine.imports("--quiet", CCUSAGE_TIMEZONE="Europe/Berlin")
    machine.imports("--quiet", CCUSAGE_TIMEZONE="Europe/Berlin")
    machine.imports("--quiet")
    assert days(machine) == ["2025-10-01"]


@pytest.mark.parametrize("lost", [False, True], ids=["recorded", "lost"])
def test_another_zone_later_is_refused(machine: Machine, lost: bool) -> None:
    machine.imports("--quiet")
    before = machine.tables(keep=True)
    if lost:
        lose(machine)
    done = machine.imports("--quiet", code=2, CCUSAGE_TIMEZONE="Asia/Tokyo")
    assert done.err.splitlines()[-1].startswith(
        "CCUSAGE_TIMEZONE=Asia/Tokyo: the days of this machine are stored in UTC; unset it"
    )
    assert machine.tables(keep=True) == before
    assert len(machine.history()) == 1
    assert (machine.state / "machine.json").exists() is not lost


def test_a_zone_that_ccusage_could_not_understand_is_refused(machine: Machine) -> None:
    done = machine.imports("--quiet", code=2, TZ="JST-9")
    assert "TZ: 'JST-9' is no IANA time zone; set CCUSAGE_TIMEZONE to one" in done.err


def test_a_zone_that_the_embedded_engine_does_not_know_is_named(tmp_path: Path) -> None:
    done = Machine(tmp_path).run(TZ="JST-9", CCUSAGE_TIMEZONE="Asia/Tokyo")
    assert done.code == 2
    assert "the embedded database cannot be loaded: Cannot load time zone JST-9; " in done.err


@pytest.mark.parametrize(
    ("env", "zone"),
    [
        ({"TZ": "Europe/Berlin"}, "Europe/Berlin"),
        ({"TZ": ":Europe/Berlin"}, "Europe/Berlin"),
        ({"TZ": ""}, "UTC"),
        ({"TZ": ":"}, "UTC"),
        ({"TZ": "EST5EDT"}, "EST5EDT"),
    ],
)
def test_the_zone_of_the_machine_is_that_of_tz(env: dict[str, str], zone: str) -> None:
    assert system_zone(env) == zone


@pytest.mark.parametrize("name", ["/etc/localtime", "localtime", "/srv/zone"])
def test_the_zone_of_a_file_is_that_which_it_links_to(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = {"/etc/localtime": "Asia/Tokyo", "/srv/zone": "Europe/Berlin"}
    monkeypatch.setattr(os.path, "realpath", lambda path: f"/usr/share/zoneinfo/{links[path]}")
    for form in (name, f":{name}"):
        assert system_zone({"TZ": form}) == links.get(name, "Asia/Tokyo")


@pytest.mark.parametrize(
    ("target", "zone"),
    [
        ("/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/posix/Asia/Tokyo", "Asia/Tokyo"),
        ("/var/db/timezone/zoneinfo/America/Argentina/Salta", "America/Argentina/Salta"),
        ("/usr/share/zoneinfo.default/Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/Etc/UTC", "Etc/UTC"),
    ],
)
def test_without_tz_it_is_that_of_etc_localtime(
    monkeypatch: pytest.MonkeyPatch, target: str, zone: str
) -> None:
    monkeypatch.setattr(os.path, "realpath", lambda path: {"/etc/localtime": target}[path])
    assert system_zone({}) == zone


@pytest.mark.parametrize(("text", "zone"), [("Asia/Tokyo\n", "Asia/Tokyo"), ("\n", "UTC")])
def test_where_that_is_a_copy_it_is_that_of_etc_timezone(
    monkeypatch: pytest.MonkeyPatch, text: str, zone: str
) -> None:
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    monkeypatch.setattr(Path, "read_text", lambda path: {"/etc/timezone": text}[str(path)])
    assert system_zone({}) == zone


def test_without_any_of_them_it_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    monkeypatch.setattr(Path, "read_text", missing)
    assert system_zone({}) == "UTC"


# --- the name ------------------------------------------------------------------------------


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr(socket, "gethostname", lambda: name)


def dump(machine: Machine, name: str) -> Any:
    """What is stored of the machine of this name."""
    assert machine.database
    return read(machine.database.query, name, keep=True)


def names(machine: Machine) -> list[tuple[Any, ...]]:
    assert machine.database
    sql = "SELECT DISTINCT machine_name FROM ccusage_usage_daily ORDER BY 1"
    return machine.database.query(sql)


def test_a_machine_keeps_the_name_of_its_first_import(
    machine: Machine, called: Callable[[str], None]
) -> None:
    called("Laptop.Home.LAN")
    machine.imports("--quiet", MACHINE_NAME="")
    called("dhcp-17.cafe.example")
    machine.imports("--quiet", MACHINE_NAME="")
    assert names(machine) == [("laptop.home.lan",)]


def test_another_name_than_the_recorded_one_is_refused(machine: Machine) -> None:
    """All that was used would be stored, and count, once more."""
    machine.imports("--quiet", MACHINE_NAME="one")
    before = dump(machine, "one")
    done = machine.imports("--quiet", code=2, MACHINE_NAME="two")
    assert done.err.splitlines()[-1].startswith("MACHINE_NAME=two: this machine imports as one, as")
    assert "unset it, or set CCUSAGE_STATE_DIR to a directory of its own" in done.err
    assert names(machine) == [("one",)]
    assert recorded(machine)["machine_name"] == "one"
    machine.imports("--quiet", MACHINE_NAME="")
    assert dump(machine, "one") == before
    machine.imports("--quiet", MACHINE_NAME="two", CCUSAGE_STATE_DIR=f"{machine.home}/another")
    assert names(machine) == [("one",), ("two",)]


def test_without_machine_json_the_history_tells(
    machine: Machine, called: Callable[[str], None]
) -> None:
    called("laptop")
    machine.imports("--quiet", MACHINE_NAME="", TZ="Asia/Tokyo", PROJECT_HASH_KEY="k")
    before, identity = dump(machine, "laptop"), recorded(machine)
    lose(machine)
    done = machine.imports("--quiet", MACHINE_NAME="laptop", TZ="UTC", PROJECT_HASH_KEY="k")
    assert done.err == ""
    assert dump(machine, "laptop") == before
    assert recorded(machine) | {"newest_run": identity["newest_run"]} == identity
    assert (identity["timezone"], identity["key_fingerprint"]) == (
        "Asia/Tokyo",
        key_fingerprint("k"),
    )


def test_without_machine_json_the_name_of_another_installation_is_taken_on_demand_alone(
    machine: Machine, called: Callable[[str], None]
) -> None:
    called("laptop")
    machine.imports("--quiet", MACHINE_NAME="")
    before = dump(machine, "laptop")
    lose(machine)
    done = machine.imports(code=2, MACHINE_NAME="")
    assert re.search(
        r"^laptop: another installation imported under this name on 20", done.err, re.M
    )
    assert "run MACHINE_NAME=laptop ccusage_importer.py once" in done.err
    assert dump(machine, "laptop") == before
    machine.imports("--quiet", MACHINE_NAME="laptop")
    machine.imports("--quiet", MACHINE_NAME="")
    assert dump(machine, "laptop") == before


def test_a_name_that_nobody_has_used_for_a_month_is_free(
    machine: Machine, called: Callable[[str], None]
) -> None:
    called("laptop")
    with at(noon() - timedelta(days=31)):
        machine.imports("--quiet", MACHINE_NAME="")
    (machine.claude / "projects/-home-a" / f"{SESSION}.jsonl").unlink()
    write_session(machine.claude, "-home-b", "b", [Message(LATE)])
    lose(machine)
    machine.imports("--quiet", MACHINE_NAME="")
    assert recorded(machine)["machine_name"] == "laptop"


def test_the_sessions_of_another_machine_are_not_imported_once_more_unless_the_name_is_given(
    machine: Machine, called: Callable[[str], None]
) -> None:
    called("laptop")
    machine.imports("--quiet", MACHINE_NAME="")
    lose(machine)
    called("container")
    done = machine.imports(code=2, MACHINE_NAME="")
    assert "container: 1 of its 1 sessions are stored under the name laptop already" in done.err
    assert names(machine) == [("laptop",)]
    assert "WARNING: 1 of 1 new sessions are also stored" in machine.imports(MACHINE_NAME="c2").err
    assert names(machine) == [("c2",), ("laptop",)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"machine_name": "m1", "timezone": "UTC", "key_fingerprint": ""}',
        '{"machine_name": 5, "timezone": "UTC", "key_fingerprint": "", "installation_id": "x"}',
        '{"machine_name": "m", "timezone": "", "key_fingerprint": "", "installation_id": "x"}',
        '{"machine_name": "m", "timezone": "Mars", "key_fingerprint": "", "installation_id": "x"}',
        '{"machine_name": "m", "timezone": null, "key_fingerprint": "", "installation_id": "x"}',
        '{"machine_name": "m", "timezone": "UTC", "key_fingerprint": "", "installation_id": "x", '
        '"hashed": "no"}',
        "\udcff",
    ],
)
def test_a_broken_machine_json_is_explained(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as failed:
        Identity.load(tmp_path)
    message = str(failed.value)
    assert message.startswith(f"{tmp_path}/machine.json: cannot be read (")
    assert "remove it, and the next import takes name and time zone" in message


def test_a_broken_machine_json_ends_an_import_with_2(machine: Machine) -> None:
    machine.imports("--quiet")
    (machine.state / "machine.json").write_text("{")
    assert "remove it, and the next import" in machine.imports(code=2).err
    lose(machine)
    machine.imports("--quiet")


def test_unknown_parts_of_machine_json_are_ignored(tmp_path: Path) -> None:
    identity = Identity("m", "UTC", "", "i")
    (tmp_path / "machine.json").write_text(json.dumps(identity._asdict() | {"more": 1}))
    assert Identity.load(tmp_path) == identity


# --- another installation ------------------------------------------------------------------


def test_two_machines_under_one_name_are_told_at_every_run(
    machine: Machine, tmp_path: Path
) -> None:
    other = Machine(tmp_path / "elsewhere", database=machine.database)
    write_session(other.claude, "-home-b", SESSION, [Message(LATE, output=7)])
    other.state.mkdir()
    Identity("m1", "UTC", "", "another").save(other.state)
    assert "WARNING" not in machine.imports().err
    for each, args in ((other, []), (machine, []), (machine, ["--quiet"]), (other, ["--quiet"])):
        done = each.imports(*args)
        (line,) = [line for line in done.err.splitlines() if "WARNING" in line]
        assert "imported as m1 on 20" in line
        assert "set MACHINE_NAME on one" in line
        log = (each.state / "ccusage_import.log").read_text()
        assert "WARNING: another installation" in log


def test_who_comes_back_after_long_is_told_who_else_wrote(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "elsewhere", database=machine.database)
    other.state.mkdir()
    Identity("m1", "UTC", "", "another").save(other.state)
    with at(noon() - timedelta(days=50)):
        machine.stores()
    with at(noon() - timedelta(days=40)):
        other.stores()
    assert "WARNING: another installation" in machine.imports().err
    assert "WARNING" not in machine.imports().err  # it wrote last itself


def test_machines_with_their_own_names_are_no_matter(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path, "m2", database=machine.database)
    assert "WARNING" not in machine.imports().err + other.imports().err + machine.imports().err


# --- the key -------------------------------------------------------------------------------


def test_another_key_is_refused(machine: Machine) -> None:
    machine.imports("--quiet", PROJECT_HASH_KEY="k")
    before = machine.tables(keep=True)
    done = machine.imports("--quiet", code=2, PROJECT_HASH_KEY="")
    assert done.err.splitlines()[-1].startswith("PROJECT_HASH_KEY: not the key that")
    lose(machine)
    machine.imports("--quiet", code=2, PROJECT_HASH_KEY="l")
    assert machine.tables(keep=True) == before


@pytest.mark.parametrize(("first", "then"), [("", "k"), ("k", ""), ("k", "l")])
def test_a_key_is_known_from_machine_json_or_from_the_history(first: str, then: str) -> None:
    identity = Identity("m", "UTC", key_fingerprint(first), "i")
    for key, known in ((first, nullcontext()), (then, pytest.raises(ConfigError))):
        settings = Settings.from_env({"PROJECT_HASH_KEY": key})
        for places in ((identity, None), (None, identity), (identity, identity)):
            with known:
                assert identify(settings, *places).timezone == "UTC"


def test_a_fingerprint_tells_keys_apart_and_nothing_more() -> None:
    assert key_fingerprint("") == ""
    prints = {key_fingerprint(key) for key in ("a", "b", "ä", "a ")}
    assert len(prints) == 4
    assert all(len(text) == 16 for text in prints)


def test_a_dry_run_records_nothing(machine: Machine) -> None:
    machine.stores("--dry-run")
    assert not (machine.state / "machine.json").exists()


def test_a_failed_first_import_may_be_repeated(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ccusage_importer.random, "uniform", lambda *_: 0.01)
    machine.imports("--quiet", code=1, CCUSAGE_COMMAND="false")
    machine.imports("--quiet", TZ="Asia/Tokyo")
    assert days(machine) == ["2025-10-01"]


@pytest.mark.parametrize(
    ("variable", "value"), [("CCUSAGE_TIMEZONE", "Asia/Tokyo"), ("PROJECT_HASH_KEY", "another")]
)
def test_the_name_of_another_machine_is_not_taken_with_another_zone_or_key(
    machine: Machine, tmp_path: Path, variable: str, value: str
) -> None:
    machine.stores()
    before = machine.tables()
    other = Machine(tmp_path, "other", database=machine.database, **{variable: value})
    other.populate(days=1)
    done = other.imports(code=2, MACHINE_NAME=machine.name)
    assert done.err.splitlines()[-1].startswith(variable)
    assert machine.tables() == before
