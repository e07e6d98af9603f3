"""A place for campaigns: an embedded database, and a real server where one is at hand."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hopflow.workflows.database import Database, create_indexes
from places import MONGO_URI, Place


@pytest.fixture(
    params=[
        "embedded",
        pytest.param(
            "mongodb",
            marks=[
                pytest.mark.mongo,
                pytest.mark.skipif(not MONGO_URI, reason="HOPFLOW_TEST_MONGO_URI names no MongoDB-compatible server"),
            ],
        ),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "embedded":
        yield Place(tmp_path)
        return
    import pymongo

    name = f"hopflow_test_{uuid.uuid4().hex[:12]}"
    yield Place(tmp_path, f"{MONGO_URI.split('?')[0].rstrip('/')}/{name}")
    client: Any = pymongo.MongoClient(MONGO_URI)
    client.drop_database(name)
    client.close()


@pytest.fixture
def ready(place: Place) -> Iterator[Database]:
    """The place's database, open and with every index."""
    with place.open() as database:
        create_indexes(database)
        yield database
