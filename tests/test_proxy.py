"""Proxies and certificates of the environment, or of .env, lead to ClickHouse as to anything."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clickhouse_server import ClickHouseServer
from crontab import run_as_cron
from dotenv import dotenv_values
from project import Project
from proxy import Proxy

from ccusage_importer import ConfigError, Settings, StoreError, _proxy, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tables import Database


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("secure"), tls=True) as server:
        yield server


def ask(server: ClickHouseServer, **env: str) -> str:
    """What the program's client is told by the server, with this environment alone."""
    place = {"CH_HOST": "localhost", "CH_PORT": str(server.port), "CH_PROTOCOL": "https"}
    with connect(Settings.from_env(place | env)) as client:
        return str(client.command("SELECT 'here'"))


# --- proxies -----------------------------------------------------------------------------------


def test_what_the_setup_keeps_of_proxies_reaches_ccusage_and_clickhouse_under_cron(
    tmp_path: Path, database: Database
) -> None:
    project = Project(tmp_path, database)
    env = project.machine.env
    ccusage = tmp_path / "ccusage"
    ccusage.write_text(
        f'#!/bin/sh\necho "$HTTP_PROXY $no_proxy" >> {tmp_path}/seen\n'
        f'exec {env["CCUSAGE_COMMAND"]} "$@"\n'
    )
    ccusage.chmod(0o755)
    env["CCUSAGE_COMMAND"] = shlex.quote(str(ccusage))
    with Proxy(database.server) as proxy:
        env |= {
            "CH_HOST": "db.example.com",  # which only the proxy can reach
            "HTTP_PROXY": f"http://me:p%40ss%25@{proxy.place}",
            "no_proxy": "pypi.org,.corp",
        }
        project.setup()
        kept = dotenv_values(project.dotenv, interpolate=False)
        assert {name: kept[name] for name in ("HTTP_PROXY", "no_proxy")} == {
            name: env[name] for name in ("HTTP_PROXY", "no_proxy")
        }
        (tmp_path / "seen").unlink()
        proxy.heads.clear()
        done = run_as_cron(project.crontab.entries[0], tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        project.machine.check()
        user = base64.b64encode(b"me:p@ss%").decode()
        assert proxy.heads
        for head in proxy.heads:
            assert head.startswith("POST http://db.example.com:")
            assert f"proxy-authorization: basic {user}".lower() in head.lower()
        seen = set((tmp_path / "seen").read_text().splitlines())
        assert seen == {f"{env['HTTP_PROXY']} pypi.org,.corp"}
        project.machine.database = None  # the server is asked through the proxy
        found = project.verify()
        assert found["last import"] == ("ok", "m1: 0 hours ago")


@pytest.mark.parametrize(
    ("env", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1"}, None),  # not for https
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "  "}, None),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2"}, "http://p:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://p:2"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "a.org, DB.example.com"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example.com"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "db.example.com:8443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "db.example.com:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b.example.com,ample.com,,"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "[::1]", "CH_HOST": "[::1]"}, None),
    ],
)
def test_the_proxy_is_that_of_the_protocol_unless_the_server_is_excepted(
    env: dict[str, str], proxy: str | None
) -> None:
    place = {"CH_HOST": "db.example.com", "CH_PORT": "8443"}
    assert _proxy(Settings.from_env(place | env)).get("http_proxy") == proxy


def test_a_tunnel_leads_to_an_https_server(secure: ClickHouseServer) -> None:
    trusted = {"CH_CA_CERT": str(secure.certificate)}
    with Proxy(secure) as proxy:
        assert ask(secure, HTTPS_PROXY=f"http://a:b@{proxy.place}", **trusted) == "here"
        assert ask(secure, HTTPS_PROXY=proxy.place, **trusted) == "here"
        assert ask(secure, HTTPS_PROXY=proxy.place, NO_PROXY="localhost", **trusted) == "here"
        named, bare = proxy.heads
    assert named.startswith(f"CONNECT localhost:{secure.port} HTTP/1.")
    assert f"basic {base64.b64encode(b'a:b').decode()}".lower() in named.lower()
    assert "authorization" not in bare.lower()


@pytest.mark.parametrize(
    "url", ["socks5://me:s3cret@proxy:1", "http://me:s3cret@", "http://me:s3cret@proxy:many"]
)
def test_a_proxy_that_is_no_http_proxy_is_told_without_its_password(
    secure: ClickHouseServer, url: str
) -> None:
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY: expected .*NO_PROXY$") as failed:
        ask(secure, HTTPS_PROXY=url)
    assert "s3cret" not in str(failed.value)


def test_a_dead_proxy_is_named_in_the_remedy_without_its_password(
    secure: ClickHouseServer,
) -> None:
    with pytest.raises(StoreError, match=r"remedy: check CH_HOST .* HTTPS_PROXY") as failed:
        ask(secure, HTTPS_PROXY="http://me:s3cret@127.0.0.1:9")
    assert "s3cret" not in str(failed.value)


# --- certificates ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"])
def test_certificates_that_ccusage_trusts_are_trusted_here(
    secure: ClickHouseServer, name: str
) -> None:
    with pytest.raises(StoreError, match="set CH_CA_CERT"):
        ask(secure)
    assert ask(secure, **{name: str(secure.certificate)}) == "here"
    for path in ("/no/where", __file__):
        with pytest.raises(StoreError, match=f"remedy: set CH_CA_CERT .*{name}"):
            ask(secure, **{name: path})
    assert ask(secure, CH_VERIFY="false", **{name: "/no/where"}) == "here"
    assert ask(secure, CH_CA_CERT=str(secure.certificate), **{name: "/no/where"}) == "here"
