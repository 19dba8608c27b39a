"""A Kubernetes API server for labs and tests: Nodes and Pods, with the semantics that a daemon depends on.

`objects` keeps them with their versions and history, `merge` applies patches, `access` decides who may do what, `options`
checks what a read or a watch asks for, `reads` and `watches` answer it, `server` speaks HTTP, `levers` are what a test
changes, `filling` makes many Nodes and their heartbeats, `process` runs it all. What must stay true: where a real API
server refuses, is late, forgets or goes silent, so does this one; what it leaves out (admission, defaulting, other
resources) it answers with an error.
"""
