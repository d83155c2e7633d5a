"""`python -m ccnn_geo.ops.native`: compile the native backend for this machine."""

import sys
import time

from ccnn_geo.ops.native import build

started = time.perf_counter()
try:
    build(verbose=True)
except RuntimeError as error:
    sys.exit(str(error))
sys.stdout.write(f"Done in {time.perf_counter() - started:.1f} s\n")
