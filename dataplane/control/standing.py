"""What forwards now: of the life that goes on, or of the last one that did.

What must stay true: what an earlier life built is let go of only when the next one is about to build.
"""

from __future__ import annotations

from dataplane.control.loop import Control


class Standing:
    """The devices and routes that forward now: of the life that goes on, or of the last one that did."""

    def __init__(self) -> None:
        self._control: Control | None = None

    async def replace(self, control: Control) -> None:
        """Let go of what stood; `control` is opened next, under the same names and ports."""
        await self.close()
        self._control = control

    async def close(self) -> None:
        """Let go of it. What flannel leaves behind for a restart stays."""
        control, self._control = self._control, None
        if control is not None:
            await control.close()

    async def withdraw(self) -> None:
        """Take all of it away: the lease is lost."""
        control, self._control = self._control, None
        if control is not None:
            await control.withdraw()
            await control.close()
