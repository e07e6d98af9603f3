"""What several tests of networks share."""

from pathlib import Path

import pytest
from hopflow.learning.interstitial_storage import InterstitialDataset, load_dataset
from interstitial_crystals import build


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of ``interstitial_crystals``, built once; nothing may be changed in it."""
    return build(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture(scope="session")
def tiny_dataset(tiny_folder: Path) -> InterstitialDataset:
    return load_dataset(tiny_folder)
