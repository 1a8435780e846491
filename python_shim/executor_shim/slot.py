"""The script of a slot: short, for it alone is compiled at each start. All else is `serving.py`, which has bytecode."""

import sys

sys.path.insert(0, __file__.rpartition("/executor_shim/")[0])

from executor_shim.serving import main

main()
