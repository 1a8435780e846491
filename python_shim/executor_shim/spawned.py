"""What a newly executed interpreter runs: `python3 -P -u -X utf8 …/executor_shim/spawned.py CONFIG`, `ctl` on 0."""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from executor_shim import runner, values

_CTL = 202  # out of the way of what the first acts put in place


def _main() -> None:
    runner.configure(values.decode(sys.argv[1]))
    try:
        ctl = os.dup2(0, _CTL, inheritable=False)
    except OSError:
        ctl = os.dup(0)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    if null > 2:
        os.close(null)
    os._exit(runner.attend(runner.requests(ctl)))


_main()
