"""Run the README's first Python example on the installed gro, and check that the wheel holds every card."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import gro
import gro_surrogates
from gro import cards

ROOT = Path(__file__).resolve().parent.parent


def example(readme: Path) -> str:
    """Return the first Python block of a Markdown file."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    found = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if found is None:
        sys.exit(f"{readme}: no Python example to run")
    return found[1]


def check_wheel() -> None:
    """Exit with one line if gro comes from the checkout or the wheel lacks a card."""
    for package in (gro, gro_surrogates):
        folder = Path(str(package.__file__)).parent
        if folder in (ROOT / "gro", ROOT / "surrogates" / "gro_surrogates"):
            sys.exit(f"{folder} is in the checkout: install a wheel first")
    kinds: tuple[cards.Kind, ...] = ("datasets", "surrogates", "surrogates/suites", "experiments")
    for kind in kinds:
        missing = {card.stem for card in (ROOT / kind).glob("*.toml")} - set(cards.names(kind))
        if missing:
            sys.exit(f"the wheel lacks cards of {kind}: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    check_wheel()
    code = compile(example(ROOT / "README.md"), "README.md", "exec")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        exec(code, {"__name__": "__main__"})
        os.chdir(ROOT)
