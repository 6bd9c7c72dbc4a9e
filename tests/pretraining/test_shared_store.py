import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brainfeat.exceptions import InputError
from brainfeat.io.volumes import write_volume
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.shared_store import write_store_together
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.store_writer import Scan
from brainfeat.volume import Volume

PREPROCESSOR = Preprocessor(shape=(24, 32, 20), spacing=8.0, alignment="none")
# One of two processes: it names the scans that it was told of.
_PROCESS = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.shared_store import write_store_together
from brainfeat.pretraining.store_writer import Scan

folder, number, scans = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
)
told = []

def tell(event):
    # Nobody reads a scan that is done.
    told.append(event.scan.subject)
    Path(event.scan.images["T1w"]).unlink(missing_ok=True)

_, failed = write_store_together(
    [Scan(subject=name, images={"T1w": path}) for name, path in scans],
    f"{folder}/store",
    Preprocessor(shape=(24, 32, 20), spacing=8.0, alignment="none"),
    modalities=("T1w",),
    on_scan=tell,
)
print(*told, "failed:", *[row.scan.subject for row in failed])
dist.destroy_process_group()
"""


@pytest.fixture
def scans(tmp_path, small_brain):
    """Four brains, and one scan that is not there."""
    folder = tmp_path / "scans"
    folder.mkdir()
    scans = []
    for index in range(4):
        data = np.roll(small_brain.data, index, axis=0).astype(np.float32)
        path = folder / f"{index}.nii.gz"
        write_volume(Volume(data, small_brain.geometry), path)
        scans.append(Scan(subject=f"sub-{index}", images={"T1w": str(path)}))
    return [*scans, Scan(subject="sub-x", images={"T1w": str(folder / "no.nii")})]


def test_two_processes_share_the_work_and_make_the_store_of_one(scans, tmp_path):
    alone, _ = write_store_together(
        scans, tmp_path / "alone", PREPROCESSOR, modalities=("T1w",)
    )
    listed = str([[s.subject, s.images["T1w"]] for s in scans]).replace("'", '"')
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(tmp_path), str(number), listed],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    failed = ["failed:", "sub-x"]
    assert said[0] == ["sub-0", "sub-2", "sub-x", *failed]
    assert said[1] == ["sub-1", "sub-3", *failed]
    assert VolumeStore(tmp_path / "store").index == alone.index


def test_each_scan_is_told_of_in_turn(scans, tmp_path):
    events = []
    _, failed = write_store_together(
        scans,
        tmp_path / "store",
        PREPROCESSOR,
        modalities=("T1w",),
        on_scan=events.append,
    )
    assert [event.scan for event in events] == scans
    assert [(event.n_done, event.n_scans) for event in events] == [
        (number, 5) for number in range(1, 6)
    ]
    assert [event.error is None for event in events] == [True] * 4 + [False]
    assert [row.scan for row in failed] == scans[4:]


def test_nothing_to_store_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nothing to store"):
        write_store_together([], tmp_path, PREPROCESSOR, modalities=("T1w",))
