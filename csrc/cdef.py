"""Write the cffi module's C source from the boundary header: the part between its cdef marks is the contract.

Used by meson at build time: `cdef.py HEADER OUTPUT`.
"""

import sys
from pathlib import Path

from cffi import FFI

header, output = map(Path, sys.argv[1:])
contract = header.read_text().split("/* cdef begin */")[1].split("/* cdef end */")[0]
ffi = FFI()
ffi.cdef(contract)
ffi.set_source("dataplane._core", '#include "dataplane.h"', py_limited_api=True)
ffi.emit_c_code(str(output))
