"""A network configuration that changes under the daemon is told."""

from __future__ import annotations

from dataclasses import replace

from dataplane.errors import BadConfig, NoConfig, StoreError
from dataplane.follow.config import follow_config
from dataplane.model import NetConf
from dataplane.observe.state import NodeState
from tests.control.fakes import FakeStore, VirtualClock, conf, go, run_until


def test_a_changed_configuration_is_said_until_it_is_back() -> None:
    async def scenario() -> None:
        answers: list[NetConf | Exception] = [
            conf,
            StoreError("down"),
            NoConfig("there is none"),
            replace(conf, backend_type="wireguard"),
            replace(conf, subnet_len=26),
            BadConfig("SubnetLen: 99"),
            conf,
        ]
        notes: list[str] = []
        state = NodeState()

        class Store(FakeStore):
            async def read_config(self) -> NetConf:
                notes.append(state.notes.get("config", ""))
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if isinstance(answer, Exception):
                    raise answer
                return answer

        await run_until(lambda: len(notes) == 8, follow_config(Store(), conf, state, VirtualClock()))
        assert notes[:3] == ["", "", ""]
        assert "it was deleted (there is none); put it back" in notes[3]
        assert "cannot be used (unknown backend type" in notes[4] and "restart" not in notes[4]
        assert "it has changed; restart the daemon" in notes[5]
        assert "cannot be used (SubnetLen: 99)" in notes[6] and "restart" not in notes[6]
        assert notes[7] == ""

    go(scenario())
