from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import gro.data

PROBE = """
import json, re, resource, sys, time, gro.data
from pathlib import Path
from gro.config import DataSettings
start = time.process_time()
n = gro.data.load(DataSettings(dataset="big", data_path=sys.argv[1])).n_interactions
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.platform == "linux":  # where that counts what forked this process as well
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([n, time.process_time() - start, peak]))
"""


def test_a_million_rows_load_in_three_seconds_and_one_gigabyte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 1_000_000
    columns = rng.integers(1, 6041, n), rng.zipf(1.3, n) % 3416, rng.integers(1, 6, n), 956_703_932 + rng.permutation(n)
    rows = "\n".join(map("%d\t%d\t%d\t%d".__mod__, zip(*(column.tolist() for column in columns), strict=True)))
    path = tmp_path / "big" / "big.inter"
    path.parent.mkdir()
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    probe = [sys.executable, "-c", PROBE, str(tmp_path)]
    checkout = Path(gro.data.__file__).parents[2]
    found, seconds, peak = json.loads(subprocess.run(probe, check=True, capture_output=True, cwd=checkout).stdout)
    assert found == n
    assert seconds < 3
    assert peak < 1e9
