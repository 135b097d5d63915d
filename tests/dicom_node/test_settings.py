"""The configuration: every message names the key, and the documentation is made from the code."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dicom_node.settings import Settings, SettingsError, load_settings
from dicom_node.settings_view import page

RULED = """
[[rules]]
name = "flair"
model = "brain-flair"
destinations = ["pacs"]
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
"""


STOW = """
[[destinations]]
name = "web"
kind = "stow"
url = "https://pacs.example/dicom-web/"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "fovea.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_the_defaults_admit_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    settings = load_settings()

    assert settings.peers == ()
    assert settings.rules == ()
    assert settings.node.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[node]\nae_title = 'X\\\\Y'", "node.ae_title", id="backslash in an AE title"),
        pytest.param("[node]\nae_title = '                 '", "node.ae_title", id="blank AE title"),
        pytest.param("[node]\nae_titel = 'X'", "node.ae_titel", id="misspelt key"),
        pytest.param("[nodes]\n", "nodes", id="misspelt section"),
        pytest.param("[output]\nobjects = ['seg']", "output.objects: Value error, sr is missing", id="no report"),
        pytest.param("[output]\nobjects = ['seg', 'sr', 'sr']", "named twice", id="an object twice"),
        pytest.param("[output]\nobjects = ['seg', 'sr', 'fax']", "output.objects.2", id="unknown object"),
        pytest.param(
            RULED + "objects = ['seg', 'sr', 'pdf']", "destinations.0.objects: pdf is not among", id="object that is not made"
        ),
        pytest.param("[receive]\nsettle_after_s = -1", "receive.settle_after_s", id="negative time"),
        pytest.param("[[peers]]\nae_title = 'A'\naddresses = ['10.0.0.300']", "peers.0.addresses.0", id="no address"),
        pytest.param("[[peers]]\nae_title = 'A'\naddresses = []", "peers.0.addresses", id="peer without address"),
        pytest.param(RULED.replace('"pacs"]', '"pax"]'), "rules.0.destinations", id="unknown destination"),
        pytest.param(RULED.replace("brain-flair", "other"), "rules.0.model", id="unknown model"),
        pytest.param(RULED + RULED, "rules", id="two rules of one name"),
        pytest.param(
            RULED.replace('"pacs"]', '"pacs"]\ndescription_matches = "("'), "description_matches", id="broken expression"
        ),
        pytest.param("[audit]\nanchor_file = 'a'", "anchor_key_file is required", id="anchor without key"),
        pytest.param("not toml", "not TOML", id="not TOML"),
        pytest.param(
            RULED.replace("port = 104", ""), "destinations.0: Value error, port required", id="dimse without port"
        ),
        pytest.param(STOW.replace("url =", "#"), "url is required for kind stow", id="stow without url"),
        pytest.param(STOW + 'proof = "commitment"', "take query for kind stow", id="commitment over stow"),
        pytest.param(STOW.replace("https://", "https://u:p@"), "destinations.0.url", id="password in the url"),
        pytest.param(STOW.replace("https:", "http:") + 'token_file = "t"', "https only", id="token in clear"),
        pytest.param(STOW + 'token_file = "t"\npassword_file = "p"', "exclude each other", id="two credentials"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_keys_path(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(SettingsError) as raised:
        load_settings(path)

    assert expected in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "absent.toml")


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "[receive]\nsettle_after_s = 5\nmaximum_associations = 7\n")
    monkeypatch.setenv("FOVEA_RECEIVE__SETTLE_AFTER_S", "9")

    settings = load_settings(path)

    assert settings.receive.settle_after_s == 9
    assert settings.receive.maximum_associations == 7


def test_the_page_documents_every_key_and_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, RULED + "[receive]\nsettle_after_s = 5\n"))

    text = page(settings)

    assert load_settings(write(tmp_path, text)) == settings
    for section, field in Settings.model_fields.items():
        assert f"[{section}]" in text, section
        assert field is not None


def test_the_example_configuration_is_valid() -> None:
    example = Path(__file__).parents[2] / "deploy" / "fovea.toml"

    settings = load_settings(example)

    assert tomllib.loads(example.read_text(encoding="utf-8"))["rules"][0]["name"] == settings.rules[0].name


def test_a_destination_of_each_kind(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, RULED + STOW + 'proof = "query"\ntoken_file = "/etc/fovea/token"'))

    pacs, web = settings.destinations
    assert (pacs.kind, pacs.proof, pacs.address) == ("dimse", "none", "PACS at 127.0.0.1:104")
    assert (web.kind, web.proof, web.address) == ("stow", "query", "https://pacs.example/dicom-web")
