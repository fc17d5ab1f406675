"""Names that come from outside and go into logs, store keys and headers: nothing in them needs escaping there."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

NAME = re.compile(r"[!-~]{1,255}")
"""Of an account or a token: visible ASCII, at most the 255 characters that OpenID Connect allows a ``sub``."""
Account = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
