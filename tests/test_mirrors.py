"""jingxiang.mirrors"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang import mirrors
from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.mirrors import MirrorSet, Source

ROOT = Path(__file__).resolve().parent.parent

# Two domains with two mirrors each, and the origins in front: the order of the file must not decide over them.
FOUR = """
[official]
domain = "official"

[pytorch]
torch = { layout = "pep503", url = "https://torch.example/whl/{build}" }

[a1]
domain = "a"
pypi = { layout = "pep503", url = "https://a1.example/simple" }

[a2]
domain = "a"
pypi = { layout = "pep503", url = "https://a2.example/simple" }
torch = { layout = "flat", url = "https://a2.example/{build}/" }

[b1]
domain = "b"
pypi = { layout = "pep503", url = "https://b1.example/simple" }

[b2]
domain = "b"
pypi = { layout = "pep503", url = "https://b2.example/simple" }
"""


def load(folder: Path, text: str, own: str | None = None) -> MirrorSet:
    (folder / "mirrors.toml").write_text(text, encoding="utf-8")
    if own is not None:
        (folder / "mirrors.local.toml").write_text(own, encoding="utf-8")
    return mirrors.load(folder)


def names(sources: tuple[Source, ...]) -> list[str]:
    return [source.mirror for source in sources]


@pytest.fixture
def ours(tmp_path: Path) -> MirrorSet:
    """The file of the repository, without a developer's own mirrors."""
    (tmp_path / "mirrors.toml").write_bytes((ROOT / "mirrors.toml").read_bytes())
    return mirrors.load(tmp_path)


# What each mirror offers. A space that is not here is left out on purpose: see the comments in the file.
OFFERS = {
    "official": "pypi torch conda hub oci apt",
    "tuna": "pypi conda apt",
    "aliyun": "pypi torch conda apt",
    "nju": "pypi torch conda",
    "sjtu": "pypi torch conda",
    "tencent": "pypi apt",
    "huawei": "pypi",
    "ustc": "pypi conda apt",
    "bfsu": "pypi conda apt",
    "hf-mirror": "hub",
    "modelscope": "hub",
    "daocloud": "oci",
    "pytorch": "torch",
}


def test_the_file_of_the_repository_has_every_mirror_with_its_spaces(ours: MirrorSet) -> None:
    offered = {name: " ".join(s.space for s in ours.sources if s.mirror == name) for name in ours.names}
    assert offered == OFFERS
    unaddressed = [source.space for source in ours.sources if not source.url]
    assert unaddressed == ["pypi", "torch", "apt"]
    assert [s for s in ours.sources if s.url and not s.url.startswith("https://")] == []


@pytest.mark.parametrize(
    ("name", "space", "address"),
    [
        ("tuna", "pypi", "https://pypi.tuna.tsinghua.edu.cn/simple"),
        ("aliyun", "torch", "https://mirrors.aliyun.com/pytorch-wheels/cu128/"),
        ("nju", "torch", "https://mirror.nju.edu.cn/pytorch/whl/cu128"),
        ("sjtu", "conda", "https://mirror.sjtu.edu.cn/anaconda/cloud/bioconda"),
        ("official", "conda", "https://conda.anaconda.org/bioconda"),
        ("hf-mirror", "hub", "https://hf-mirror.com"),
        ("daocloud", "oci", "https://m.daocloud.io/nvcr.io"),
        ("official", "oci", "https://registry-1.docker.io"),
        ("ustc", "apt", "https://mirrors.ustc.edu.cn/debian-security"),
        ("official", "apt", ""),
    ],
)
def test_addresses_of_the_file_of_the_repository_are_filled_in(
    ours: MirrorSet, name: str, space: str, address: str
) -> None:
    source = ours.order(space, name)[0]
    filled = source.address("cu128", channel="bioconda", registry="nvcr.io", archive="debian-security")
    assert (source.mirror, filled) == (name, address)


def test_files_lie_by_the_same_path_on_every_mirror_but_one_cache(ours: MirrorSet) -> None:
    files = {source.mirror: source.files for source in ours.offering("pypi") if source.files}
    assert sorted(files) == ["aliyun", "bfsu", "huawei", "nju", "sjtu", "tencent", "tuna"]
    # Each beside its index, but for one that calls its folder otherwise.
    assert files.pop("sjtu") == "https://mirror.sjtu.edu.cn/pypi-packages"
    for source in ours.offering("pypi"):
        if source.mirror in files:
            assert files[source.mirror] == source.url.removesuffix("/simple") + "/packages"


def test_only_the_origin_of_the_hub_sees_a_token(ours: MirrorSet) -> None:
    assert [source.mirror for source in ours.sources if source.send_token] == ["official"]


def test_a_repository_has_the_name_that_each_hub_knows(ours: MirrorSet) -> None:
    names_ = {source.mirror: source.repository("ali-vilab/i2vgen-xl") for source in ours.offering("hub")}
    assert names_ == {
        "official": "ali-vilab/i2vgen-xl",
        "hf-mirror": "ali-vilab/i2vgen-xl",
        "modelscope": "iic/i2vgen-xl",
    }
    assert ours.order("hub", "modelscope")[0].repository("other/model") == "other/model"


def test_the_file_of_the_repository_leaves_a_choice_after_any_failure(ours: MirrorSet) -> None:
    for space in mirrors.LAYOUTS:
        assert len({source.domain for source in ours.offering(space)}) >= (2 if space == "oci" else 3)
        order = names(ours.order(space, "auto"))
        assert sorted(order) == sorted(names(ours.offering(space)))
        origins = [name for name in order if name in mirrors.ORIGINS]
        assert order[-len(origins) :] == origins
    # USTC redirects its misses to TUNA, and BFSU has TUNA's operators.
    assert {source.domain for source in ours.sources if source.mirror in ("tuna", "ustc", "bfsu")} == {"tuna"}


@pytest.mark.parametrize(
    ("space", "first", "order"),
    [
        ("pypi", "tuna", "tuna aliyun nju sjtu tencent huawei ustc bfsu official"),
        ("pypi", "bfsu", "bfsu aliyun nju sjtu tencent huawei tuna ustc official"),
        ("pypi", "hf-mirror", "tuna aliyun nju sjtu tencent huawei ustc bfsu official"),
        ("torch", "tuna", "aliyun nju sjtu official pytorch"),
        ("torch", "sjtu", "sjtu aliyun nju official pytorch"),
        ("conda", "ustc", "ustc aliyun nju sjtu tuna bfsu official"),
        ("conda", "official", "official tuna aliyun nju sjtu ustc bfsu"),
        ("hub", "modelscope", "modelscope hf-mirror official"),
        ("oci", "tuna", "daocloud official"),
        ("apt", "tencent", "tencent tuna aliyun ustc bfsu official"),
    ],
)
def test_a_chosen_mirror_is_first_wherever_it_offers_something(
    ours: MirrorSet, space: str, first: str, order: str
) -> None:
    assert " ".join(names(ours.order(space, first))) == order


def test_a_mirror_is_read_with_all_its_spaces(tmp_path: Path) -> None:
    assert load(tmp_path, FOUR) == MirrorSet(
        (
            Source("official", "official", "pypi", "pep503", ""),
            Source("official", "official", "torch", "pep503", ""),
            Source("official", "official", "apt", "apt", ""),
            Source("pytorch", "pytorch", "torch", "pep503", "https://torch.example/whl/{build}"),
            Source("a1", "a", "pypi", "pep503", "https://a1.example/simple"),
            Source("a2", "a", "pypi", "pep503", "https://a2.example/simple"),
            Source("a2", "a", "torch", "flat", "https://a2.example/{build}/"),
            Source("b1", "b", "pypi", "pep503", "https://b1.example/simple"),
            Source("b2", "b", "pypi", "pep503", "https://b2.example/simple"),
        ),
        ("official", "pytorch", "a1", "a2", "b1", "b2"),
    )


def test_official_has_no_address(tmp_path: Path) -> None:
    known = load(tmp_path, FOUR)
    assert [source.address("cpu") for source in known.sources if source.mirror == "official"] == ["", "", ""]


def test_the_build_is_filled_into_the_address(tmp_path: Path) -> None:
    source = load(tmp_path, FOUR).order("torch", "a2")[0]
    assert (source.address("cu128"), source.address()) == ("https://a2.example/cu128/", "https://a2.example//")


def test_a_mirror_without_a_domain_falls_alone(tmp_path: Path) -> None:
    known = load(tmp_path, '[x]\npypi = { layout = "pep503", url = "file:///mnt/usb/simple" }\n')
    assert known.sources == (Source("x", "x", "pypi", "pep503", "file:///mnt/usb/simple"),)


@pytest.mark.parametrize(
    ("space", "first", "fastest", "order"),
    [
        # another domain before the same one, the origin last
        ("pypi", "auto", [], ["a1", "b1", "a2", "b2", "official"]),
        ("pypi", "b1", [], ["b1", "a1", "a2", "b2", "official"]),
        ("pypi", "a2", [], ["a2", "b1", "a1", "b2", "official"]),
        # an origin that was asked for comes first, like any other
        ("pypi", "official", [], ["official", "a1", "b1", "a2", "b2"]),
        # as measured; who did not answer comes afterwards
        ("pypi", "auto", ["b2", "a2"], ["b2", "a2", "a1", "b1", "official"]),
        ("pypi", "auto", ["official", "b1"], ["official", "b1", "a1", "a2", "b2"]),
        ("pypi", "auto", ["b2", "b1", "a2", "a1", "official"], ["b2", "b1", "a2", "a1", "official"]),
        # the choice comes before the measurement
        ("pypi", "a1", ["b2", "a1", "b1"], ["a1", "b2", "b1", "a2", "official"]),
        # a mirror without this space changes nothing
        ("torch", "b1", [], ["a2", "official", "pytorch"]),
        ("torch", "pytorch", [], ["pytorch", "a2", "official"]),
        ("torch", "auto", ["b1", "pytorch"], ["pytorch", "a2", "official"]),
    ],
)
def test_sources_are_asked_in_order(
    tmp_path: Path, space: str, first: str, fastest: list[str], order: list[str]
) -> None:
    assert names(load(tmp_path, FOUR).order(space, first, fastest)) == order


def test_auto_and_every_mirror_can_be_chosen(tmp_path: Path) -> None:
    known = load(tmp_path, FOUR)
    assert [known.check(name) for name in ("auto", "official", "b2")] == ["auto", "official", "b2"]


def test_an_unknown_mirror_is_refused_with_the_nearest(tmp_path: Path) -> None:
    known = load(tmp_path, "[tuna]\n[aliyun]\n")
    with pytest.raises(UnknownName) as caught:
        known.check("tuan")
    assert caught.value.message == (
        "mirrors.toml: no mirror named 'tuan'; there is aliyun, auto, tuna (did you mean 'tuna'?)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tuna\n", "is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"),
        ("tuna = 1\n", "tuna: should be a table, not a whole number"),
        ("[tuna]\nnpm = {}\n", "tuna.npm: no key named 'npm'; there is apt, conda, domain, hub, oci, pypi, torch"),
        (
            "[tuna]\npipy = {}\n",
            "tuna.pipy: no key named 'pipy'; there is apt, conda, domain, hub, oci, pypi, torch (did you mean 'pypi'?)",
        ),
        ("[tuna]\ndomain = 1\n", "tuna.domain: should be a string, not a whole number"),
        ('[tuna]\npypi = "https://x"\n', "tuna.pypi: should be a table, not a string"),
        ("[tuna]\npypi = {}\n", "tuna.pypi.url: is missing; it should be a string"),
        ('[tuna]\npypi = { url = "https://x" }\n', "tuna.pypi.layout: is missing; it should be a string"),
        (
            '[tuna]\npypi = { layout = "pep503", ulr = "https://x" }\n',
            "tuna.pypi.ulr: no key named 'ulr'; there is files, layout, url (did you mean 'url'?)",
        ),
        (
            '[tuna]\npypi = { layout = "flat", url = "https://x" }\n',
            "tuna.pypi.layout: 'flat' is not one of pep503",
        ),
        (
            '[tuna]\ntorch = { layout = "pep50", url = "https://x" }\n',
            "tuna.torch.layout: 'pep50' is not one of pep503, flat",
        ),
        (
            '[tuna]\npypi = { layout = "pep503", url = "x.example/simple" }\n',
            "tuna.pypi.url: should begin with https://, http:// or file://",
        ),
        (
            '[official]\npypi = { layout = "pep503", url = "https://x" }\n',
            "official.pypi: no key named 'pypi'; there is conda, domain, hub, oci",
        ),
        (
            '[tuna]\nconda = { layout = "conda", url = "https://x/{chanel}" }\n',
            "tuna.conda.url: 'chanel' cannot be filled in, only {channel}",
        ),
        (
            '[tuna]\npypi = { layout = "pep503", url = "https://x/{build}" }\n',
            "tuna.pypi.url: 'build' cannot be filled in",
        ),
        ('[tuna]\nconda = { layout = "conda", url = "https://x" }\n', "tuna.conda.url: should hold {channel}"),
        ('[tuna]\napt = { layout = "apt", url = "https://x" }\n', "tuna.apt.url: should hold {archive}"),
        (
            '[tuna]\nconda = { layout = "flat", url = "https://x/{channel}" }\n',
            "tuna.conda.layout: 'flat' is not one of conda",
        ),
        (
            '[tuna]\nhub = { layout = "xet", url = "https://x" }\n',
            "tuna.hub.layout: 'xet' is not one of hf, modelscope",
        ),
        ('[tuna]\noci = { layout = "v2", url = "https://x" }\n', "tuna.oci.layout: 'v2' is not one of oci, oci-layout"),
        ('[tuna]\napt = { layout = "deb", url = "https://x/{archive}" }\n', "tuna.apt.layout: 'deb' is not one of apt"),
        (
            '[tuna]\npypi = { layout = "pep503", url = "https://x", files = "/x" }\n',
            "tuna.pypi.files: should begin with https://, http:// or file://",
        ),
        (
            '[tuna]\noci = { layout = "oci", url = "https://x", files = "https://x" }\n',
            "tuna.oci.files: no key named 'files'; there is layout, url",
        ),
        (
            '[tuna]\nhub = { layout = "hf", url = "https://x", send_token = "no" }\n',
            "tuna.hub.send_token: should be true or false, not a string",
        ),
        (
            '[tuna]\nhub = { layout = "hf", url = "https://x", ids = [] }\n',
            "tuna.hub.ids: should be a table, not a list",
        ),
        (
            '[tuna]\nhub = { layout = "hf", url = "https://x", ids = { "a/b" = 1 } }\n',
            "tuna.hub.ids.a/b: should be a string, not a whole number",
        ),
    ],
)
def test_a_broken_file_is_said_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(JingxiangError) as caught:
        load(tmp_path, text)
    assert (caught.value.message, caught.value.exit_code) == (f"mirrors.toml: {message}", 2)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JingxiangError) as caught:
        mirrors.load(tmp_path)
    assert caught.value.message == "mirrors.toml: cannot be read: No such file or directory"


OWN = '[a1]\npypi = { layout = "pep503", url = "http://lan.example/simple" }\n[lan]\n'


def test_own_mirrors_replace_those_of_the_same_name(tmp_path: Path) -> None:
    known = load(tmp_path, FOUR, OWN)
    assert known.names == ("official", "pytorch", "a1", "a2", "b1", "b2", "lan")
    assert known.order("pypi", "a1")[0] == Source("a1", "a1", "pypi", "pep503", "http://lan.example/simple")


def test_a_folder_and_a_company_offer_every_space(tmp_path: Path) -> None:
    """A bundle is a mirror, and so is whatever a company runs; nobody's token is shown to them unasked."""
    own = """
[usb]
pypi = { layout = "pep503", url = "file:///mnt/usb/simple", files = "file:///mnt/usb/packages" }
torch = { layout = "flat", url = "file:///mnt/usb/torch/{build}/" }
conda = { layout = "conda", url = "file:///mnt/usb/conda/{channel}" }
hub = { layout = "hf", url = "file:///mnt/usb/hub" }
oci = { layout = "oci", url = "file:///mnt/usb/images" }
apt = { layout = "apt", url = "file:///mnt/usb/{archive}" }
"""
    first = {space: load(tmp_path, FOUR, own).order(space, "usb")[0] for space in mirrors.LAYOUTS}
    assert {space: (source.mirror, source.domain, source.layout) for space, source in first.items()} == {
        "pypi": ("usb", "usb", "pep503"), "torch": ("usb", "usb", "flat"), "conda": ("usb", "usb", "conda"),
        "hub": ("usb", "usb", "hf"), "oci": ("usb", "usb", "oci"), "apt": ("usb", "usb", "apt"),
    }  # fmt: skip
    assert first["conda"].address(channel="conda-forge") == "file:///mnt/usb/conda/conda-forge"
    assert (first["pypi"].files, first["hub"].send_token) == ("file:///mnt/usb/packages", False)


def test_own_mirrors_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.toml").write_text(OWN, encoding="utf-8")
    monkeypatch.setenv("JINGXIANG_MIRRORS", str(tmp_path / "own" / "mine.toml"))
    known = load(tmp_path, FOUR, "[not-read]\n")
    assert known.names == ("official", "pytorch", "a1", "a2", "b1", "b2", "lan")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            "[a1]\nurl = 1\n",
            "JINGXIANG_MIRRORS: a1.url: no key named 'url'; there is apt, conda, domain, hub, oci, pypi, torch",
        ),
        (None, "JINGXIANG_MIRRORS: cannot be read: No such file or directory"),
    ],
)
def test_an_error_in_own_mirrors_names_where_they_were_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, message: str
) -> None:
    if own:
        (tmp_path / "mine.toml").write_text(own, encoding="utf-8")
    monkeypatch.setenv("JINGXIANG_MIRRORS", str(tmp_path / "mine.toml"))
    with pytest.raises(JingxiangError) as caught:
        load(tmp_path, FOUR)
    assert caught.value.message == message


def test_an_error_in_the_local_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(JingxiangError) as caught:
        load(tmp_path, FOUR, "[a1\n")
    assert caught.value.message.startswith("mirrors.local.toml: is not valid TOML: ")
