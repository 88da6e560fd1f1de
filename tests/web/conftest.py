"""A running page with small limits, for the tests that attack it."""

import pytest
from serving_builders import make_room, running_site

from cxr_mmdet.web.uploads import UploadLimits


@pytest.fixture(scope="module")
def room():
    room = make_room(limits=UploadLimits(files=4, file_bytes=4 << 20, total_bytes=8 << 20, pixels=1_000_000))
    yield room
    room.close()


@pytest.fixture(scope="module")
def url(room):
    with running_site(room) as url:
        yield url
