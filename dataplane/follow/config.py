"""Says when the store's network configuration is no longer the one in use: it is read at the start only."""

from __future__ import annotations

import asyncio
import logging

from dataplane.backends import from_conf
from dataplane.errors import DataplaneError, NoConfig, StoreError
from dataplane.model import NetConf
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock
from dataplane.runtime.say import Say
from dataplane.stores.base import Store

log = logging.getLogger(__name__)

config_s = 30.0


async def follow_config(store: Store, conf: NetConf, state: NodeState, clock: Clock) -> None:
    """Say when the store's network configuration is no longer the one in use, for ever."""
    never = asyncio.Event()
    say = Say(log)
    while True:
        await clock.wait(never, config_s)
        news = ""
        try:
            found = await store.read_config()
            if found != conf:
                from_conf(found)
                news = "it has changed; restart the daemon to take it up"
        except NoConfig as error:
            news = f"it was deleted ({error}); put it back: a daemon that starts without it waits"
        except StoreError:
            continue  # `ping` tells
        except DataplaneError as error:
            news = f"it has changed, to one that cannot be used ({error}); mend it: a daemon that starts with it ends"
        if news:
            text = f"the network configuration in use is not the store's: {news}"
            state.notes["config"] = text
            say.warn("config", text, clock.now())
        else:
            state.notes.pop("config", None)
            say.over("config", "the network configuration in use is the store's again")
