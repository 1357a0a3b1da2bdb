"""Secrets come from files and credentials, and are shown nowhere."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from scidaq.config import Config, Origin
from scidaq.options import HIDDEN, Secret

Load = Callable[..., Config]
Problems = Callable[..., list[str]]
CANARY = "canary-7f3a"


@dataclass(frozen=True)
class Login:
    """Somebody's name and password."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    user: str = "me"
    password: Secret | None = None


@dataclass(frozen=True)
class CloudOptions:
    """Something behind a password."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    token: Secret | None = None
    login: Login | None = None
    others: tuple[Login, ...] = ()
    pin: Secret | None = None
    pin_file: str = "its own"
    """No file with a secret: an option of this name, which the driver reads itself."""


class CloudDriver:
    """A driver with secrets that talks about them when it is made."""

    Options = CloudOptions
    resource = None

    def __init__(self, instrument_id: str, options: CloudOptions, clock: object) -> None:
        if options.token is not None and options.token.reveal().endswith("!"):
            raise ValueError(f"token: {options.token.reveal()!r} ends in !")

    def close(self) -> None:
        pass


DRIVERS = {"cloud": CloudDriver}
CLOUD = "[instruments.c]\ndriver = 'cloud'\n"


def options(config: Config) -> Any:
    return config.instruments["c"].options


def written(file: Path, text: str = CANARY, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


# ---- the type -------------------------------------------------------------------------------------------------------


def test_a_secret_says_what_it_is_only_when_asked() -> None:
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret!r}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert CANARY not in shown
        assert HIDDEN in shown
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert (secret, hash(secret)) == (Secret(CANARY), hash(Secret(CANARY)))
    assert secret != Secret("other")
    assert secret != CANARY
    assert pickle.loads(pickle.dumps(secret)) == secret
    assert not Secret("")


# ---- where they come from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_from_a_file_that_the_configuration_names(loaded: Load, tmp_path: Path, ending: str) -> None:
    file = written(tmp_path / "token", CANARY + ending)
    config = loaded(CLOUD + f"token_file = '{file}'", drivers=DRIVERS)
    assert options(config).token == Secret(CANARY)
    assert config.origin("instruments.c.token") == Origin(f"file {file}")
    assert config.warnings == ()
    assert config.secrets == (Secret(CANARY),)
    assert CANARY not in repr(config)


def test_from_a_file_that_the_environment_names(loaded: Load, tmp_path: Path) -> None:
    env = {"SCIDAQ_INSTRUMENTS__C__LOGIN__PASSWORD_FILE": str(written(tmp_path / "password"))}
    assert options(loaded(CLOUD, env=env, drivers=DRIVERS)).login == Login("me", Secret(CANARY))


def test_inside_arrays_and_tables_that_are_text(loaded: Load, tmp_path: Path) -> None:
    file = written(tmp_path / "password")
    env = {"SCIDAQ_INSTRUMENTS__C__OTHERS": f"[{{user = 'a'}}, {{user = 'b', password_file = '{file}'}}]"}
    config = loaded(CLOUD, env=env, drivers=DRIVERS)
    assert options(config).others == (Login("a"), Login("b", Secret(CANARY)))
    text = CLOUD + f"[[instruments.c.others]]\npassword_file = '{file}'"
    assert options(loaded(text, drivers=DRIVERS)).others == (Login("me", Secret(CANARY)),)


def test_given_as_it_is(loaded: Load) -> None:
    env = {"SCIDAQ_INSTRUMENTS__C__TOKEN": "12"}
    assert options(loaded(CLOUD, env=env, drivers=DRIVERS)).token == Secret("12")


def test_from_a_credential_of_systemd(loaded: Load, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    written(credentials / "instruments.c.token", CANARY + "\n", 0o444)
    env = {"CREDENTIALS_DIRECTORY": str(credentials)}
    config = loaded(CLOUD, env=env, drivers=DRIVERS)
    assert options(config).token == Secret(CANARY)
    assert config.origin("instruments.c.token") == Origin("systemd credential instruments.c.token")
    assert config.warnings == ()
    assert options(loaded(CLOUD + "token = 'nearer'", env=env, drivers=DRIVERS)).token == Secret("nearer")


def test_an_option_of_such_a_name_is_that_option(loaded: Load) -> None:
    assert options(loaded(CLOUD + "pin_file = '/nowhere'", drivers=DRIVERS)).pin_file == "/nowhere"


# ---- what is wrong with them ----------------------------------------------------------------------------------------


def test_what_is_no_file_with_a_secret(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "long").write_text("x" * 70_000)
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name, what in {
        "missing": "cannot be read: No such file or directory",
        "empty": "is empty",
        "long": "holds more than 65536 bytes, so it is no secret",
        "bytes": "is not UTF-8",
        "config": "is no file",
    }.items():
        said = problems(CLOUD + f"token_file = '{name}'", drivers=DRIVERS)
        assert said == [f"config/default.toml:3: instruments.c.token_file: {name} {what}"]
    said = problems(CLOUD + "token_file = 5", drivers=DRIVERS)
    assert said == ["config/default.toml:3: instruments.c.token_file: found 5, expected a path"]


def test_both_are_a_contradiction(problems: Problems, tmp_path: Path) -> None:
    env = {"SCIDAQ_INSTRUMENTS__C__TOKEN": CANARY}
    (said,) = problems(CLOUD + "token_file = 'x'", env=env, drivers=DRIVERS)
    assert said == (
        "config/default.toml:3: instruments.c.token_file: instruments.c.token "
        "(environment variable SCIDAQ_INSTRUMENTS__C__TOKEN) is given too; leave one of them out"
    )


def test_a_file_that_everybody_may_read_is_told(loaded: Load, tmp_path: Path) -> None:
    file = written(tmp_path / "token", mode=0o644)
    config = loaded(CLOUD + f"token_file = '{file}'", drivers=DRIVERS)
    assert [w for w in config.warnings if w.startswith("config/default.toml:3: instruments.c.token_file: ")]
    (tmp_path / "config/default.toml").chmod(0o644)
    (warning,) = loaded({"x": ""}, drivers=DRIVERS).warnings
    assert "chmod o= " in warning
    (tmp_path / "config/default.toml").write_text(CLOUD + f"token = '{CANARY}'")
    (warning,) = loaded({"x": ""}, drivers=DRIVERS).warnings
    assert warning.startswith("config/default.toml:3: instruments.c.token: everybody")
    assert CANARY not in warning
    (tmp_path / "config/default.toml").chmod(0o640)
    assert loaded({"x": ""}, drivers=DRIVERS).warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        f"token = '{CANARY}!'",  # which the driver repeats
        f"token = ['{CANARY}']",
        f"token = {{ is = '{CANARY}' }}",
        f"token = '{CANARY}'\ntokn = '{CANARY}'",
        f"[[instruments.c.others]]\npassword = '{CANARY}'\nuser = 5",
    ],
)
def test_no_mistake_tells_a_secret(problems: Problems, text: str) -> None:
    said = problems(CLOUD + text, drivers=DRIVERS)
    assert said
    assert CANARY not in "\n".join(said)


def test_near_matches_know_of_the_file(problems: Problems) -> None:
    (said,) = problems(CLOUD + "token_fil = 'x'", drivers=DRIVERS)
    assert said.endswith("unknown key; did you mean token_file?")


# ---- the hash -------------------------------------------------------------------------------------------------------


def test_the_hash_is_that_of_the_values_in_force(loaded: Load) -> None:
    base = loaded(CLOUD, drivers=DRIVERS)
    assert len(base.hash) == 64
    assert int(base.hash, 16)
    same = [CLOUD + "[station]\nname = 'station'", "[storage]\nsync_interval_ms = 200\n" + CLOUD, CLOUD + "token = 'x'"]
    assert {loaded(text, drivers=DRIVERS).hash for text in same} == {base.hash}
    other = [CLOUD + "[station]\nname = 'other'", "", CLOUD + "[instruments.c.login]", CLOUD + "record = 'never'"]
    assert len({loaded(text, drivers=DRIVERS).hash for text in other} | {base.hash}) == 5
