"""The CNI plugin of type `flannel`: it has another plugin (bridge) do the work with what subnet.env says.

Container runtimes start it on the host for every pod, as one file, with an interpreter that knows nothing of this
project. What must stay true: the modules here import nothing else of `dataplane`, run on Python 3.9, and import few
modules of the standard library, since each start pays for them. What common imports add to a start of 14 ms: json 14 ms,
argparse 17, typing 20, subprocess 21, ipaddress 7, signal 8. The C modules under them, which are imported here instead,
add less than 1 ms each. A test holds the list.

Source: the CNI specification 1.1.0; flannel-io/cni-plugin; docs/cni.md and docs/decisions/0015-cni-plugin.md.
"""
