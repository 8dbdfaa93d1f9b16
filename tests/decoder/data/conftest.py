"""One small store of every default task for all tests here, spoken by tones."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinstep.decoder.data.speech import Tones
from twinstep.decoder.data.store import Store

AMOUNT = 0.02


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("small")
    return Store.make(folder, amount=AMOUNT, speaker=Tones())
