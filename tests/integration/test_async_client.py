"""The client for event loops: many answers and commands at once over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from orchestrator.client import AnswerFailed, AnswerIncomplete
from orchestrator.client.async_answer import AsyncAnswer, StillThere
from orchestrator.client.async_client import AsyncClient
from orchestrator.client.client import SURE_BYTES
from orchestrator.client.errors import OtherModel
from orchestrator.client.question import Question
from schemas.errors import ContractError
from schemas.messages import ChatMessage, ShowHistory, StatusReply, StreamText
from tests.support.gateway_world import GatewayWorld
from tests.support.members import as_operator
from tests.support.mqtt_proxy import MqttProxy
from tests.support.polling import DEADLINE_S
from tests.support.scripted_nodes import answer_text


def hello(max_tokens: int) -> Question:
    return Question(messages=(ChatMessage(role="user", content="hello"),), max_tokens=max_tokens)


@asynccontextmanager
async def connected(gateway_world: GatewayWorld) -> AsyncIterator[AsyncClient]:
    async with asyncio.timeout(DEADLINE_S), await AsyncClient.connect(as_operator(gateway_world.url)) as client:
        yield client


def test_many_answers_at_once(gateway_world: GatewayWorld) -> None:
    async def ask() -> list[str]:
        async with connected(gateway_world) as client:
            answers = await asyncio.gather(*(client.ask(hello(5 + number)) for number in range(12)))
            texts = await asyncio.gather(*(answer.whole() for answer in answers))
            assert all(answer.end and answer.end.completion_tokens == len(answer.text) for answer in answers)
            return texts

    assert asyncio.run(ask()) == [answer_text(5, 5 + number) for number in range(12)]


def test_commands_beside_answers(gateway_world: GatewayWorld) -> None:
    async def ask() -> None:
        async with connected(gateway_world) as client:
            answer = await client.ask(hello(20))
            text, nodes, plan, status = await asyncio.gather(
                answer.whole(), client.nodes(), client.plan(), client.status()
            )
            assert text == answer_text(5, 20)
            assert [node.node for node in nodes.nodes] == ["a", "b", "c", "d"]
            assert plan.pipelines
            assert status.state == "serving"
            assert (await client.overview()).nodes

    asyncio.run(ask())


def test_what_is_wrong_is_told_to_who_asks(gateway_world: GatewayWorld) -> None:
    async def ask() -> None:
        async with connected(gateway_world) as client:
            with pytest.raises(ContractError):
                await client.ask(hello(0))
            with pytest.raises(ContractError):
                await client.command(ShowHistory(limit=1), StatusReply)
            with pytest.raises(AnswerFailed, match="the context is"):
                await (await client.ask(Question(prompt="a" * 300))).whole()
            assert await (await client.ask(hello(3))).whole() == answer_text(5, 3)

    asyncio.run(ask())


async def begun(client: AsyncClient) -> AsyncAnswer:
    """An answer of which something has come."""
    answer = await client.ask(hello(40))
    async with aclosing(answer.pieces()) as pieces:
        piece = await anext(pieces)
        assert isinstance(piece, StreamText)
    return answer


@pytest.mark.usefixtures("endless")
def test_an_answer_that_is_left_ends(gateway_world: GatewayWorld) -> None:
    async def ask() -> None:
        async with connected(gateway_world) as client:
            await begun(client)
            await asyncio.to_thread(gateway_world.until_nothing_is_open)

    asyncio.run(ask())


@pytest.mark.usefixtures("endless")
def test_who_is_cancelled_leaves_nothing_open(gateway_world: GatewayWorld) -> None:
    async def ask() -> None:
        async with connected(gateway_world) as client:
            reading = asyncio.create_task((await client.ask(hello(40))).whole())
            asking = asyncio.create_task(client.ask(Question(prompt="a" * 2 * SURE_BYTES)))  # asks for limits first
            await asyncio.sleep(0)
            reading.cancel()
            asking.cancel()
            ended = await asyncio.gather(reading, asking, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended)
            await asyncio.to_thread(gateway_world.until_nothing_is_open)

    asyncio.run(ask())


@pytest.mark.usefixtures("endless")
def test_closing_ends_what_is_open_and_says_so(gateway_world: GatewayWorld) -> None:
    async def ask() -> None:
        async with connected(gateway_world) as client:
            answer = await client.ask(hello(40))
            reading = asyncio.create_task(answer.whole())
            while not answer.text:
                await asyncio.sleep(0)
            await client.close()
            with pytest.raises(AnswerIncomplete, match="closed"):
                await reading
            with pytest.raises(AnswerIncomplete, match="closed"):
                await client.ask(hello(1))
            with pytest.raises(AnswerIncomplete, match="closed"):
                await client.nodes()
        gateway_world.until_nothing_is_open()

    asyncio.run(ask())


def test_another_model_than_the_one_that_was_asked_gives_no_answer(gateway_world: GatewayWorld) -> None:
    async def ask() -> None:
        async with connected(gateway_world) as client:
            assert await (await client.ask(hello(3), model="tiny")).whole() == answer_text(5, 3)
            with pytest.raises(OtherModel, match="the model is tiny by now, no longer big: ask again"):
                await (await client.ask(hello(40), model="big")).whole()
        gateway_world.until_nothing_is_open()

    asyncio.run(ask())


def test_an_answer_goes_on_after_the_connection_was_lost(gateway_world: GatewayWorld) -> None:
    """The loop waits for the next connection, too, which may have the descriptor of the one before."""

    async def ask() -> None:
        async with asyncio.timeout(DEADLINE_S), await AsyncClient.connect(as_operator(proxy.url)) as client:
            for _ in range(3):
                answer = await client.ask(hello(10))
                proxy.cut()
                assert await answer.whole() == answer_text(5, 10)

    with MqttProxy(gateway_world.url) as proxy:
        asyncio.run(ask())


@pytest.mark.usefixtures("endless")
def test_silence_is_said(gateway_world: GatewayWorld) -> None:
    async def ask() -> None:
        async with connected(gateway_world) as client:
            answer = await client.ask(hello(40))
            async with aclosing(answer.pieces(quiet_s=0.05)) as pieces:
                while not isinstance(await anext(pieces), StillThere):
                    pass

    asyncio.run(ask())


def test_events(gateway_world: GatewayWorld) -> None:
    async def listen() -> None:
        async with connected(gateway_world) as client, aclosing(client.events()) as events:
            first = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            while not first.done():  # the subscription is on its way
                await asyncio.to_thread(gateway_world.operator.drain, "d")
                await asyncio.to_thread(gateway_world.operator.drain, "d", undo=True)
                await asyncio.wait({first}, timeout=0.1)
            assert first.result().node == "d"

    asyncio.run(listen())
