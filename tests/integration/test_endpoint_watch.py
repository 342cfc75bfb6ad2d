"""A host looks at its own model servers, each by its own clock: what one does is told whatever another one does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agentcom import limits, messages
from agentcom.config import EndpointSettings
from agentcom.messages import EndpointSighting
from agentcom_sidecar.endpoints import EndpointWatch
from tests.standins.starter import StandIn, standin

TOKEN = b"\0" * limits.SESSION_TOKEN_BYTES
HANGS = {"routes": {"/api/version": {"hang": True}}}
LOOKS = "/api/version"
POLL_S = 0.01
GUARD_S = 20.0  # far below `NEVER_S`, which a hanging server holds its own check for
NEVER_S = 600.0

Until = Callable[[Callable[[EndpointSighting], bool]], Awaitable[EndpointSighting]]
Story = Callable[[EndpointWatch, Until], Awaitable[None]]


def watched(story: Story, every_s: float, *discover: str) -> None:
    """Plays `story` beside a watch that runs; the story gets the sightings in the order in which they are told."""

    async def run() -> None:
        told: asyncio.Queue[EndpointSighting] = asyncio.Queue()

        def send(make: Callable[[bytes], messages.Endpoints]) -> bool:
            for one in make(TOKEN).sightings:
                told.put_nowait(one)
            return True

        async def until(condition: Callable[[EndpointSighting], bool]) -> EndpointSighting:
            while not condition(one := await told.get()):
                pass
            return one

        settings = EndpointSettings(probe_every_s=every_s, probe_timeout_s=NEVER_S, discover=discover)
        watch = EndpointWatch(settings, send)
        running = asyncio.create_task(watch.run())
        try:
            async with asyncio.timeout(GUARD_S):
                await story(watch, until)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


def looks(server: StandIn) -> int:
    return len(server.log(LOOKS))


def test_a_server_that_dies_is_told_while_its_neighbour_hangs() -> None:
    with standin("ollama") as good, standin("ollama", HANGS) as hanging:

        async def story(watch: EndpointWatch, until: Until) -> None:
            watch.ask([hanging.url, good.url], {})
            await until(lambda one: one.url == good.url and one.probe.healthy)
            while not looks(hanging):
                await asyncio.sleep(POLL_S)
            good.down()
            await until(lambda one: one.url == good.url and not one.probe.healthy)
            good.up()
            await until(lambda one: one.url == good.url and one.probe.healthy)
            assert looks(hanging) == 1  # never two checks of one address at once

        watched(story, 0.05)
        assert hanging.wait_for_outcome("client_left", LOOKS)  # the end of the watch ends its checks


def test_a_guessed_address_that_hangs_holds_back_no_other_either() -> None:
    with standin("ollama") as good, standin("ollama", HANGS) as hanging:

        async def story(watch: EndpointWatch, until: Until) -> None:
            await until(lambda one: one.url == good.url and one.probe.healthy)
            good.down()
            sick = await until(lambda one: not one.probe.healthy)
            assert sick.url == good.url  # who never answered is not told of

        watched(story, 0.05, hanging.url, good.url)


def test_an_address_that_is_new_is_looked_at_at_once_and_the_others_when_they_are_due() -> None:
    with standin("ollama") as known, standin("ollama") as new:

        async def story(watch: EndpointWatch, until: Until) -> None:
            watch.ask([known.url], {})
            await until(lambda one: one.url == known.url)
            watch.ask([known.url, new.url], {})
            await until(lambda one: one.url == new.url)
            assert (looks(known), looks(new)) == (1, 1)
            watch.hurry()  # a new session
            assert {(await until(bool)).url for _ in range(2)} == {known.url, new.url}
            assert (looks(known), looks(new)) == (2, 2)

        watched(story, 3600)


def test_a_shorter_cycle_holds_for_the_checks_that_wait() -> None:
    with standin("ollama") as server:

        async def story(watch: EndpointWatch, until: Until) -> None:
            watch.ask([server.url], {})
            await until(lambda one: one.probe.healthy)
            watch.ask([server.url], {}, 0.05)
            await until(lambda one: one.probe.healthy)

        watched(story, 3600)


def test_what_a_check_saw_before_a_model_was_loaded_says_nothing_of_what_is_loaded() -> None:
    """Whether it runs meanwhile or has ended and is not told yet: the hub would hear of it after the load."""
    with standin("ollama", {"routes": {LOOKS: {"held": True}}}) as server:

        async def story(watch: EndpointWatch, until: Until) -> None:
            watch.ask([server.url], {})
            while not looks(server):
                await asyncio.sleep(POLL_S)
            watch.loaded(server.url)
            server.set_script({"routes": {}})
            assert not (await until(lambda one: one.probe.healthy)).probe.warm_known
            watch.hurry()
            while not watch._found:
                await asyncio.sleep(0)
            watch.loaded(server.url)
            assert not (await until(lambda one: one.probe.healthy)).probe.warm_known
            watch.hurry()
            assert (await until(lambda one: one.probe.healthy)).probe.warm_known

        watched(story, 3600)


def test_what_ends_together_is_told_together() -> None:
    refused = ["http://10.0.0.1", "http://10.0.0.2", "http://10.0.0.3"]  # not this host's: it takes no time

    async def run() -> list[str]:
        told: asyncio.Queue[list[str]] = asyncio.Queue()

        def send(make: Callable[[bytes], messages.Endpoints]) -> bool:
            told.put_nowait([one.url for one in make(TOKEN).sightings])
            return True

        watch = EndpointWatch(EndpointSettings(probe_every_s=3600, discover=()), send)
        watch.ask(refused, {})
        running = asyncio.create_task(watch.run())
        try:
            async with asyncio.timeout(GUARD_S):
                return await told.get()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    assert sorted(asyncio.run(run())) == refused
