"""The CNI plugin of type `flannel`: it has another plugin (bridge) do the work with what subnet.env says.

Container runtimes start it on the host for every pod, as one file, with an interpreter that knows nothing of this
project. What must stay true: the modules here import nothing else of `dataplane`, run on Python 3.9, and import few
modules of the standard library, since each start pays for them. Left out for their cost (import alone, on top of a start
of 11 ms): json 11 ms (`_json`, which it is made of, 1 ms), subprocess 16 ms, argparse 9 ms, typing 4 ms, ipaddress 4 ms.

Source: the CNI specification 1.1.0; flannel-io/cni-plugin; docs/cni.md and docs/decisions/0015-cni-plugin.md.
"""
