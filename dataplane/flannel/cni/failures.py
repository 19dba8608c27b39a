"""What can go wrong, as the numbers and texts that a CNI runtime shows.

Source: CNI specification 1.1.0, "Error": 1 to 99 have its meanings, 100 and more are a plugin's own. 106 is the
launcher's (launcher.c).
"""

from __future__ import annotations

incompatible_version = 1
invalid_environment = 4
io_failed = 5
not_decodable = 6
invalid_config = 7
try_again_later = 11
not_available = 50

subnet_file_unusable = 100
delegate_not_found = 101
delegate_not_started = 102
delegate_said_nothing = 103
attachment_unknown = 104
gc_incomplete = 105
unexpected = 199


class Failure(Exception):
    """The command ends with this error.

    Attributes:
        code: one of the numbers above.
        msg: short, for the event that a user of the cluster sees.
        details: what to look at, and what is allowed.
    """

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details
