"""Writing a pack on a volume that fails: an error, and never half a pack that looks whole."""

from __future__ import annotations

import pytest

from lakefeed.errors import Corrupt, LakefeedError, NotFound, VolumeFailed
from lakefeed.format.pack import PackSealed, PackWriter
from lakefeed.volume.base import Volume, read_file
from lakefeed.volume.memory import MemoryVolume
from tests.format.samples import PACK_ID, contents, fill_small, small_pack
from tests.support.faulty import MODES, Mode, every_fault


def write(volume: Volume) -> PackSealed:
    with volume.create("p/a.pack") as file:
        writer = PackWriter(file, PACK_ID, 0)
        fill_small(writer)
        writer.flush()
        sealed = writer.seal()
    volume.sync_directory("p")
    return sealed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dead", [False, True])
def test_a_pack_is_whole_once_it_is_sealed_and_refused_before(mode: Mode, dead: bool) -> None:
    right = contents(small_pack())
    outcomes: list[str] = []
    for volume in every_fault(MemoryVolume, mode, dead=dead):
        inner = volume.inner
        assert isinstance(inner, MemoryVolume)
        try:
            sealed = write(volume)
        except VolumeFailed:
            outcomes.append("failed")
        else:
            # Acknowledged: it is all there after a power cut.
            data = read_file(inner.power_cut(), "p/a.pack")
            assert len(data) == sealed.bytes
            assert contents(data) == right
            outcomes.append("written")
        for found in (inner, inner.power_cut()):
            try:
                assert contents(read_file(found, "p/a.pack")) == right
            except (NotFound, Corrupt) as error:
                assert isinstance(error, LakefeedError)
                assert outcomes[-1] == "failed"
    assert outcomes == ["failed"] * (len(outcomes) - 1) + ["written"]
    assert len(outcomes) > 6
