"""The bare echo: aiokafka takes vitals in and writes them out again, those marked as an alert to their topic too.

As bare as can be: no order to keep, no confirmation awaited before the next read, commits now and then.
"""

import asyncio
import contextlib
import os
import signal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


async def main() -> None:
    bootstrap, prefix = os.environ["BENCH_BOOTSTRAP"], os.environ["BENCH_PREFIX"]
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    consumer = AIOKafkaConsumer(
        f"{prefix}clinical.vitals", bootstrap_servers=bootstrap, group_id=f"{prefix}echo", auto_offset_reset="earliest"
    )
    async with consumer, AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        echo = asyncio.create_task(_echo(consumer, producer, prefix))
        await stopping.wait()
        echo.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await echo


async def _echo(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, prefix: str) -> None:
    while True:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                await producer.send(f"{prefix}clinical.scores", record.value, record.key)
                if record.headers:
                    await producer.send(f"{prefix}clinical.alerts", record.value, record.key)


if __name__ == "__main__":
    asyncio.run(main())
