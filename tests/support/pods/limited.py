"""Runs a pod that may take 512 MiB: `python -m tests.support.pods.limited run`.

`MEMORY_GROUP` is the folder of a control group that it joins. Without it, the limit is that of its data segment.
"""

import os
import resource
import sys
from pathlib import Path

LIMIT = 512 * 1024 * 1024

if __name__ == "__main__":
    if group := os.environ.get("MEMORY_GROUP"):
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    from service.__main__ import main

    sys.exit(main(sys.argv[1:]))
