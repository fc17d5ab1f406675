from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gro.errors import ConfigError
from gro.service.settings import GuardSettings, read_guard

Write = Callable[[str], Path]


def test_an_empty_file_lets_nobody_in_but_to_what_is_open(write: Write) -> None:
    settings = read_guard(write(""))
    assert settings == GuardSettings()
    assert (settings.keys, settings.tokens, settings.sessions) == (None, None, None)


def test_a_table_is_the_settings_of_its_part(write: Write) -> None:
    settings = read_guard(write('open = ["/up"]\n[keys]\npath = "k.json"\n[limits]\npolicy = "lenient"\n'))
    assert settings.open == ("/up",)
    assert settings.keys is not None
    assert settings.keys.path == Path("k.json")
    assert settings.limits.policy == "lenient"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limitz]", "unknown key 'limitz'. Did you mean 'limits'?"),
        ('[limits]\npolicie = "strict"', "[limits]: unknown key 'policie'. Did you mean 'policy'?"),
        ("[keys]", "[keys]: 'path' is required"),
        ("keys = 5", "'keys' is 5; it must be a table, [keys]"),
        ("[[audit]]", "it must be a table, [audit]"),
        ("[wire]\nmost_k = 0", "[wire]: 'most_k' is 0"),
        ("[monitor", "not a TOML file"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_its_table(write: Write, text: str, said: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as error:
        read_guard(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
