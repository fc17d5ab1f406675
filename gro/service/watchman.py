"""The monitor on duty: calls by the names it was calibrated with, and the alarms that stand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from gro.errors import ConfigError
from gro.service.monitor.calibration import Calibration
from gro.service.monitor.detector import Judgement
from gro.service.monitor.files import read
from gro.service.privacy import Privacy, PrivacySettings
from gro.service.querylog import Call
from gro.service.settings import MonitorSettings
from gro.service.wire import MOST_ITEMS

ALARMS: Final = 10_000
"""Latest alarms that are remembered."""


class Watchman:
    """Judges accounts by their calls, and tells an alarm once."""

    def __init__(
        self, settings: MonitorSettings, privacy: PrivacySettings, secret: bytes | None, n_items: int | None
    ) -> None:
        """Take up the calibration.

        Args:
            settings: where it is, and how much is remembered.
            privacy: by what logs know items.
            secret: of hashes.
            n_items: size of the catalogue.

        Raises:
            ConfigError: it was made from a log whose items are hashed, and not with this secret.
            DataError: it cannot be read.
        """
        calibration = read(settings.calibration)
        self._monitor = calibration.monitor(accounts=settings.accounts, answers=settings.answers)
        self._threshold = calibration.detector.threshold
        self._hashed = _hashed(calibration, settings, privacy, secret, n_items)
        self._alarms: OrderedDict[str, Judgement] = OrderedDict()

    def __len__(self) -> int:
        """Accounts that are remembered."""
        return len(self._monitor.accounts)

    @property
    def alarms(self) -> tuple[str, ...]:
        """Accounts with an alarm that stands, the longest first."""
        return tuple(self._alarms)

    def judgement(self, account: str) -> Judgement | None:
        """What was last said of an account; ``None`` where it is not known."""
        record = self._monitor.accounts.find(account)
        if record is None:
            return None
        return self._alarms.get(account) or Judgement(float(record["score"]), self._threshold)

    def observe(self, call: Call) -> tuple[Judgement, bool]:
        """Take in a call; what is said of the account now, and whether an alarm of it begins."""
        history, listed = call.history, call.listed
        if self._hashed is not None:
            history, listed = (np.array(self._hashed(ids.tolist()), np.int64) for ids in (history, listed))
        judged = self._monitor.observe(call.account, history, listed, call.time)
        if not judged.alarm:
            self._alarms.pop(call.account, None)
            return judged, False
        begins = call.account not in self._alarms
        if begins or judged.reasons:
            self._alarms[call.account] = judged
        if len(self._alarms) > ALARMS:
            self._alarms.popitem(last=False)
        return judged, begins

    def forget(self, account: str) -> None:
        """Judge an account from now on by what it does from now on."""
        self._monitor.forget(account)
        self._alarms.pop(account, None)


def _hashed(
    calibration: Calibration,
    settings: MonitorSettings,
    privacy: PrivacySettings,
    secret: bytes | None,
    n_items: int | None,
) -> Callable[[Iterable[int]], list[int]] | None:
    """What hashes items as in the log that was calibrated on; ``None`` where they are ids there: hashes lie beyond."""
    known = calibration.background.items
    if known[-1] <= MOST_ITEMS:
        return None
    hashed = Privacy(privacy.model_copy(update={"items": "hashed"}), secret).items()
    if n_items is not None and not np.isin(hashed(range(1, n_items + 1)), known).any():
        raise ConfigError(
            f"{settings.calibration}: the items of its log were hashed with another secret than [privacy]'s"
        )
    return hashed
