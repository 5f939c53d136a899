"""A simulated Soundpiece API for tests, demos and benchmarks: real sockets, real audio, faults on demand.

    async with Simulator(speed=100) as sim:
        async with Session(Settings(api_key=sim.api_key, base_url=sim.url)) as session: ...

It shares no code with the client, so that a misread field name cannot be misread twice. Needs the extra `simulator`.
"""

from soundpiece_async.simulator.faults import Fault, Faults
from soundpiece_async.simulator.operations import ServerOperation
from soundpiece_async.simulator.request_log import ReceivedRequest, ServerStatistics
from soundpiece_async.simulator.simulator import Simulator
from soundpiece_async.simulator.webhooks import WebhookAttempt

__all__ = ["Fault", "Faults", "ReceivedRequest", "ServerOperation", "ServerStatistics", "Simulator", "WebhookAttempt"]
