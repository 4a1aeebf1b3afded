"""jingxiang.fetch.network: what pip and the environment say is what the client does"""

from __future__ import annotations

import base64
import ssl
import urllib.parse
from pathlib import Path

import pytest

from jingxiang.errors import UsageError
from jingxiang.fetch import network
from jingxiang.fetch.network import Network, Proxy
from tests.peers import tls
from tests.peers.tls import Authority

A, B = "http://a.example:3128", "http://b.example:8080"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return tls.authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing but a home, in which there is no file with logins."""
    return {"HOME": str(tmp_path)}


def basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def login(found: Network, url: str) -> str:
    return found.login(urllib.parse.urlsplit(url))


def test_nothing_set_is_nothing_special(home: dict[str, str]) -> None:
    assert network.of({}, home) == Network()


def test_pips_settings_and_those_of_the_environment_come_together(home: dict[str, str], authority: Authority) -> None:
    client = authority.issue("client")
    mine = authority.self_signed()
    logins = Path(home["HOME"]) / ".netrc"
    logins.write_text("machine a login b password c\n")
    settings = {
        "proxy": "http://li:p%40ss@p.example:3128", "cert": str(mine), "client-cert": str(client),
        "trusted-host": "a.example b.example:8443", "index-url": "https://elsewhere.example/simple",
    }  # fmt: skip
    environ = {**home, "SSL_CERT_FILE": str(authority.certificate), "NO_PROXY": "c.example"}
    proxy = Proxy("p.example", 3128, basic("li:p@ss"))
    assert network.of(settings, environ) == Network(
        {"http": proxy, "https": proxy},
        "c.example",
        (authority.certificate, mine),
        client,
        ("a.example", "b.example:8443"),
        logins,
    )


# Proxies.


@pytest.mark.parametrize(
    ("environ", "http", "https"),
    [
        ({"HTTP_PROXY": A}, "a.example", ""),
        ({"HTTPS_PROXY": A}, "", "a.example"),
        ({"ALL_PROXY": A}, "a.example", "a.example"),
        ({"all_proxy": A, "HTTPS_PROXY": B}, "a.example", "b.example"),
        ({"HTTP_PROXY": A, "http_proxy": B}, "b.example", ""),
        ({"http_proxy": B, "HTTP_PROXY": A}, "b.example", ""),
        ({"HTTPS_PROXY": A, "https_proxy": ""}, "", ""),
        ({"http_proxy": "", "all_proxy": A}, "a.example", "a.example"),
        ({"FTP_PROXY": A, "PROXY": A, "MY_HTTP_PROXIES": A}, "", ""),
    ],
)
def test_the_environment_names_proxies(home: dict[str, str], environ: dict[str, str], http: str, https: str) -> None:
    found = network.of({}, home | environ).proxies
    assert {scheme: proxy.host for scheme, proxy in found.items()} == {
        scheme: host for scheme, host in (("http", http), ("https", https)) if host
    }


@pytest.mark.parametrize(
    ("address", "proxy"),
    [
        ("http://a.example:3128", Proxy("a.example", 3128, "")),
        ("http://a.example:3128/", Proxy("a.example", 3128, "")),
        ("http://A.example", Proxy("a.example", 80, "")),
        ("HTTP://a.example", Proxy("a.example", 80, "")),
        ("a.example:3128", Proxy("a.example", 3128, "")),
        ("10.0.0.1:3128", Proxy("10.0.0.1", 3128, "")),
        ("http://[fd00::1]:3128", Proxy("fd00::1", 3128, "")),
        ("li:s3cret@a.example:3128", Proxy("a.example", 3128, basic("li:s3cret"))),
        ("http://li@a.example", Proxy("a.example", 80, basic("li:"))),
        ("http://l%3Ai:%E5%AF%86@a.example", Proxy("a.example", 80, basic("l:i:密"))),
    ],
)
def test_a_proxys_address_may_have_many_forms(home: dict[str, str], address: str, proxy: Proxy) -> None:
    assert network.of({}, {**home, "http_proxy": address}) == Network({"http": proxy})


def test_a_proxys_login_is_not_shown_with_it(home: dict[str, str]) -> None:
    found = network.of({"proxy": "http://li:s3cret@a.example"}, home)
    assert repr(found.proxies["http"]) == "Proxy(host='a.example', port=80)"


def test_pips_proxy_stands_before_the_environments(home: dict[str, str]) -> None:
    environ = {**home, "HTTP_PROXY": B, "https_proxy": B, "ALL_PROXY": B}
    proxy = Proxy("a.example", 3128, "")
    assert network.of({"proxy": A}, environ) == Network({"http": proxy, "https": proxy})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("socks5://li:s3cret@a.example:1080", "socks5://…@a.example:1080"),
        ("https://li:s3cret@a.example", "https://…@a.example"),
        ("socks5h://a.example", "socks5h://a.example"),
        ("http://", "http://"),
        ("http://a.example:99999", "http://a.example:99999"),
        ("http://a.example:0", "http://a.example:0"),
        ("http://[fd00::1", "http://[fd00::1"),
        ("li:s3cret@a.example:x", "…@a.example:x"),
        ("http://li:s3/cret@a.example:3128", "http://…@a.example:3128"),
        ("http://li:s3#cret@a.example:3128", "http://…@a.example:3128"),
        ("http://li:'s3cret'@a.example:x", "http://…@a.example:x"),
        ("http://li:s3@cret@a.example:x", "http://…@a.example:x"),
    ],
)
@pytest.mark.parametrize("place", ["pip", "environment"])
def test_a_proxy_that_we_cannot_speak_to_is_refused_and_its_password_not_shown(
    home: dict[str, str], address: str, shown: str, place: str
) -> None:
    with pytest.raises(UsageError) as caught:
        network.of(*(({"proxy": address}, home) if place == "pip" else ({}, {**home, "HTTPS_PROXY": address})))
    assert caught.value.message == f"the proxy {shown} cannot be used: only http://HOST:PORT"
    assert caught.value.hints == ("export HTTPS_PROXY=http://HOST:PORT HTTP_PROXY=http://HOST:PORT",)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("direct", "host", "port", "goes"),
    [
        ("", "a.example", 443, "proxy"),
        ("a.example", "a.example", 443, "direct"),
        ("a.example", "x.a.example", 443, "direct"),
        (".a.example", "x.a.example", 443, "direct"),
        (".a.example", "a.example", 443, "direct"),
        ("a.example", "nota.example", 443, "proxy"),
        ("A.Example", "a.example", 443, "direct"),
        ("a.example:8443", "a.example", 8443, "direct"),
        ("a.example:8443", "a.example", 443, "proxy"),
        ("b.example, a.example", "a.example", 443, "direct"),
        ("b.example,,a.example,", "a.example", 443, "direct"),
        ("*", "a.example", 443, "direct"),
        ("*", "10.1.2.3", 443, "direct"),
        ("10.0.0.0/8", "10.1.2.3", 443, "direct"),
        ("10.0.0.0/8", "11.1.2.3", 443, "proxy"),
        ("b.example, 10.1.2.99/24", "10.1.2.3", 443, "direct"),
        ("10.0.0.0/99,10.1.2.3", "10.1.2.3", 443, "direct"),
        ("10.0.0.0/8", "a.example", 443, "proxy"),
        ("fd00::/8", "fd00::1", 443, "direct"),
        ("::1", "::1", 443, "direct"),
        ("fd00::/8", "10.1.2.3", 443, "proxy"),
        ("127.0.0.1,localhost", "127.0.0.1", 9999, "direct"),
    ],
)
def test_no_proxy_names_hosts_domains_ports_and_networks(
    home: dict[str, str], direct: str, host: str, port: int, goes: str
) -> None:
    found = network.of({}, {**home, "ALL_PROXY": A, "NO_PROXY": direct})
    assert found.proxy("https", host, port) == (None if goes == "direct" else Proxy("a.example", 3128, ""))


def test_no_proxy_in_lower_case_wins(home: dict[str, str]) -> None:
    found = network.of({}, {**home, "ALL_PROXY": A, "NO_PROXY": "*", "no_proxy": "b.example"})
    assert [bool(found.proxy("http", f"{name}.example", 80)) for name in "ab"] == [True, False]


def test_no_proxy_holds_for_pips_proxy_too(home: dict[str, str]) -> None:
    found = network.of({"proxy": A}, {**home, "NO_PROXY": "a.example"})
    assert [bool(found.proxy("http", f"{name}.example", 80)) for name in "ab"] == [False, True]


# Certificates.


@pytest.mark.parametrize("name", network.AUTHORITIES)
def test_each_variable_of_certificates_counts(home: dict[str, str], authority: Authority, name: str) -> None:
    path = authority.certificate
    assert network.of({}, {**home, name: str(path)}) == Network(authorities=(path,))


def test_the_same_certificates_twice_are_named_once(home: dict[str, str], authority: Authority) -> None:
    path = str(authority.certificate)
    environ = {**home, "SSL_CERT_FILE": path, "REQUESTS_CA_BUNDLE": path, "CURL_CA_BUNDLE": ""}
    assert network.of({"cert": path}, environ) == Network(authorities=(authority.certificate,))


def test_a_folder_of_certificates_is_taken_too(home: dict[str, str], authority: Authority, tmp_path: Path) -> None:
    found = network.of({"cert": str(tmp_path)}, home)
    assert found == Network(authorities=(tmp_path,))
    assert found.context("a.example", 443).verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "cert", "client-cert"])
def test_a_missing_certificate_file_is_named(home: dict[str, str], tmp_path: Path, name: str) -> None:
    path = tmp_path / "nothing.pem"
    named = {name: str(path)}
    with pytest.raises(UsageError) as caught:
        network.of(*((named, home) if name.islower() else ({}, home | named)))
    assert caught.value.message == f"{path}: no such file; it should hold certificates"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["cert", "client-cert"])
def test_a_file_without_certificates_is_named(home: dict[str, str], tmp_path: Path, name: str) -> None:
    path = tmp_path / "text.pem"
    path.write_text("text")
    found = network.of({name: str(path)}, home)
    with pytest.raises(UsageError, match="no certificates: ") as caught:
        found.context("a.example", 443)
    assert caught.value.message.startswith(f"{path}: no certificates: ")


def test_a_key_with_a_password_is_refused_and_nobody_asked_for_it(home: dict[str, str], authority: Authority) -> None:
    path = authority.locked(authority.issue("client"))
    with pytest.raises(UsageError) as caught:
        network.of({"client-cert": str(path)}, home).context("a.example", 443)
    assert caught.value.message.startswith(f"{path}: no certificates: ")


def test_a_machine_without_certificates_has_those_of_pip(
    home: dict[str, str], authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    context = network.of({"cert": str(authority.certificate)}, home).context("a.example", 443)
    names = [dict(pair for part in each["subject"] for pair in part) for each in context.get_ca_certs()]  # type: ignore
    assert {"commonName": "jingxiang tests"} in names
    assert len(names) > 50


@pytest.mark.parametrize(
    ("trusted", "host", "port", "checked"),
    [
        ("", "a.example", 443, True),
        ("a.example", "a.example", 8443, False),
        ("A.Example", "a.example", 443, False),
        ("a.example:8443", "a.example", 8443, False),
        ("a.example:8443", "a.example", 443, True),
        ("b.example a.example", "a.example", 443, False),
        ("example", "a.example", 443, True),
    ],
)
def test_only_of_trusted_hosts_the_certificate_is_not_looked_at(
    home: dict[str, str], trusted: str, host: str, port: int, checked: bool
) -> None:
    context = network.of({"trusted-host": trusted}, home).context(host, port)
    assert (context.check_hostname, context.verify_mode == ssl.CERT_REQUIRED) == (checked, checked)


# Logins.


@pytest.mark.parametrize("name", [".netrc", "_netrc"])
def test_the_file_with_logins_is_that_of_the_home(home: dict[str, str], name: str) -> None:
    path = Path(home["HOME"]) / name
    path.write_text("machine a.example login li password s3cret\nmachine b.example login wang\n")
    found = network.of({}, home)
    assert found == Network(logins=path)
    assert login(found, "https://a.example/x") == login(found, "http://A.example:81/") == basic("li:s3cret")
    assert login(found, "https://b.example/") == basic("wang:")
    assert login(found, "https://x.a.example/") == ""


def test_netrc_names_another_file_with_logins(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine a.example login li password home\n")
    other = tmp_path / "logins"
    other.write_text("machine a.example login li password other\n")
    found = network.of({}, {**home, "NETRC": str(other)})
    assert found == Network(logins=other)
    assert login(found, "https://a.example/") == basic("li:other")


def test_a_login_for_all_hosts_is_for_none(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(
        "machine a.example login li password s3cret\ndefault login anonymous password me\n"
    )
    assert login(network.of({}, home), "https://b.example/") == ""
    assert login(network.of({}, home), "https://default/") == ""


def test_the_login_of_an_address_stands_before_that_of_the_file(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine a.example login li password s3cret\n")
    found = network.of({}, home)
    assert login(found, "https://wang:p%40ss@a.example/") == basic("wang:p@ss")
    assert login(found, "https://token@a.example/") == basic("token:")
    assert login(found, "https://:key@a.example/") == basic(":key")
    assert login(found, "https://@a.example/") == basic("li:s3cret")


@pytest.mark.parametrize("content", [b"machine a.example login\n", b"nonsense", b"machine a.example login l\xff\n"])
def test_a_file_with_logins_that_makes_no_sense_is_none(home: dict[str, str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".netrc").write_bytes(content)
    assert login(network.of({}, home), "https://a.example/") == ""


def test_a_file_with_logins_that_is_not_there_is_none(home: dict[str, str], tmp_path: Path) -> None:
    assert network.of({}, {**home, "NETRC": str(tmp_path / "nothing")}) == Network()
