"""What the outbox asks of aiokafka."""

import asyncio

from streams.outbox import unhurried


async def test_the_cluster_is_asked_what_it_looks_like_ten_times_a_second_at_most() -> None:
    asked = 0

    class Client:
        async def _metadata_update(self, *of: object) -> bool:
            nonlocal asked
            asked += 1
            return of == ("the cluster", "topics")

    client = Client()
    unhurried(client)
    end = asyncio.get_running_loop().time() + 0.45
    while asyncio.get_running_loop().time() < end:
        assert await client._metadata_update("the cluster", "topics")
    assert 2 <= asked <= 6
