"""The shared state of an account in Redis or Valkey: one script for the gate, equivalent to ``AccountGate``.

Keys: a hash for the gate, a hash of live processes, a hash of results and their times. The braces give them one slot.
The script reads the server's clock, so one of version 5 or later is needed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from soundpiece_async._core.gate import SAVED_SECONDS
from soundpiece_async._core.shared_gate import (
    PEER_SECONDS,
    SPARE_PERMITS,
    TUNE_SECONDS,
    TUNING_SECONDS,
    Action,
    GateState,
    Heartbeat,
    Report,
    Reserve,
)
from soundpiece_async._shared.store import GATE, NEWS_KEPT, NEWS_SECONDS, TIMEOUT, Address, translated

LISTEN_SECONDS = 60.0
"""Seconds between two checks of the listening connection."""
IDLE_SECONDS = 86_400
"""Seconds after which the state of an unused account expires."""

_SCRIPT = f"""
local gate, peers, channel = KEYS[1], KEYS[2], KEYS[3]
local action, peer = ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local g = {{}}
local all = redis.call('HGETALL', gate)
for i = 1, #all, 2 do g[all[i]] = all[i + 1] end
local rate, ceiling = tonumber(g.rate), tonumber(g.ceiling)
local due, closed, pause = tonumber(g.due or 0), tonumber(g.closed or 0), tonumber(g.pause or 0)
local epoch, version, spent = tonumber(g.epoch or 0), tonumber(g.version or 0), tonumber(g.spent or 0)
local live, wait, chosen = tonumber(g.peers or 0), 0, false
local function set(name, value)
  redis.call('HSET', gate, name, type(value) == 'number' and string.format('%.6f', value) or value)
end
closed = math.min(closed, now + pause)
if action == 'attend' then
  redis.call('HSET', peers, peer, string.format('%.6f %s', now, ARGV[3]))
  live, ceiling = 0, nil
  local signs = redis.call('HGETALL', peers)
  for i = 1, #signs, 2 do
    local seen, most = string.match(signs[i + 1], '^(%S+) ?(%S*)$')
    if now - tonumber(seen) > {PEER_SECONDS} then
      redis.call('HDEL', peers, signs[i])
    else
      live = live + 1
      most = tonumber(most)
      if most and (not ceiling or most < ceiling) then ceiling = most end
    end
  end
  set('peers', live)
  set('ceiling', ceiling or '')
  redis.call('EXPIRE', gate, {IDLE_SECONDS})
  redis.call('EXPIRE', peers, {IDLE_SECONDS})
elseif action == 'take' then
  local pace = rate
  if ceiling and (not pace or ceiling < pace) then pace = ceiling end
  if pace then
    local count, waited = tonumber(ARGV[3]), tonumber(ARGV[4])
    local opens = math.max(now, closed)
    if now - due <= waited then spent = spent + count end
    local start = math.max(due, now - {SAVED_SECONDS}, closed)
    if start - opens > (math.max(1, live) * (count + 2) + {SPARE_PERMITS}) / pace then start = opens end
    set('due', start + count / pace)
    set('spent', spent)
    wait = math.max(0, start - now)
    if rate and spent >= math.max(1, pace * {TUNE_SECONDS}) and now >= tonumber(g.tuning or 0) then
      chosen = true
      set('tuning', now + {TUNING_SECONDS})
    end
  end
elseif action == 'report' then
  local longer = now + tonumber(ARGV[4]) > closed
  if longer then
    closed, pause = now + tonumber(ARGV[4]), tonumber(ARGV[4])
  end
  if tonumber(ARGV[3]) == epoch then
    chosen, epoch, due = true, epoch + 1, closed
  end
  set('closed', closed)
  set('pause', pause)
  set('epoch', epoch)
  set('due', math.max(due, closed))
  if chosen or longer then redis.call('PUBLISH', channel, '{GATE}') end
elseif tonumber(ARGV[3]) == version then
  chosen, version, spent = true, version + 1, math.max(0, spent - tonumber(ARGV[4]))
  if not rate then redis.call('PUBLISH', channel, '{GATE}') end
  rate, g.learned = tonumber(ARGV[5]), ARGV[6]
  set('rate', ARGV[5])
  set('learned', ARGV[6])
  set('version', version)
  set('spent', spent)
  set('tuning', 0)
end
local function show(value) return value and string.format('%.6f', value) or '' end
return {{
  show(rate), show(ceiling), show(math.max(0, closed - now)), show(wait), g.learned or '',
  epoch, version, spent, live, chosen and 1 or 0
}}
"""

_PUBLISH = f"""
local news, times, channel = KEYS[1], KEYS[2], KEYS[3]
local now = redis.call('TIME')[1]
redis.call('HSET', news, ARGV[1], ARGV[2])
redis.call('ZADD', times, now, ARGV[1])
local old = redis.call('ZRANGEBYSCORE', times, '-inf', now - {NEWS_SECONDS}, 'LIMIT', 0, 100)
local more = redis.call('ZCARD', times) - {NEWS_KEPT}
if more > #old then old = redis.call('ZRANGE', times, 0, math.min(more, 100) - 1) end
if #old > 0 then
  redis.call('HDEL', news, unpack(old))
  redis.call('ZREM', times, unpack(old))
end
redis.call('EXPIRE', news, {NEWS_SECONDS})
redis.call('EXPIRE', times, {NEWS_SECONDS})
redis.call('PUBLISH', channel, ARGV[1])
"""


class RedisStore:
    """A ``Store`` in Redis or Valkey, with one connection for queries and one for notifications."""

    def __init__(self, address: Address, *, peer: str) -> None:
        self.address = address
        self._peer = peer
        names = ("gate", "peers", "news", "times")
        self._gate, self._peers, self._news, self._times = (f"soundpiece:{{{address.account}}}:{one}" for one in names)
        self._channel = f"soundpiece:{{{address.account}}}"
        self._redis: Any = None  # the driver's own types are not complete
        self._listening: Any = None

    def __repr__(self) -> str:
        return f"<RedisStore {self.address}>"

    @translated
    async def open(self) -> None:
        """Connect and subscribe."""
        await self.close()
        self._redis = redis = Redis.from_url(
            str(self.address.url),
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),  # a duplicate reservation wastes a permit
        )
        self._listening = redis.pubsub(ignore_subscribe_messages=True)
        await self._listening.subscribe(self._channel)
        self._perform, self._publish = redis.register_script(_SCRIPT), redis.register_script(_PUBLISH)

    async def close(self) -> None:
        """Close the connections."""
        listening, redis = self._listening, self._redis
        self._listening = self._redis = None
        for one in (listening, redis):
            if one is not None:
                with suppress(RedisError, OSError):
                    await one.aclose()

    @translated
    async def perform(self, action: Action) -> GateState:
        """Run the script."""
        words: tuple[object, ...]
        match action:
            case Heartbeat(ceiling=ceiling):
                words = ("attend", self._peer, "" if ceiling is None else ceiling)
            case Reserve(count=count, waited=waited):
                words = ("take", self._peer, count, waited)
            case Report(epoch=epoch, pause=pause):
                words = ("report", self._peer, epoch, pause)
            case tuning:
                words = ("tune", self._peer, tuning.version, tuning.spent, tuning.rate, tuning.learned)
        answer = await self._perform(keys=[self._gate, self._peers, self._channel], args=words)
        rate, ceiling, closed, wait, learned, epoch, version, spent, peers, chosen = answer
        return GateState(
            rate=float(rate) if rate else None,
            ceiling=float(ceiling) if ceiling else None,
            closed=float(closed),
            epoch=epoch,
            version=version,
            spent=spent,
            learned=learned.decode(errors="replace"),
            peers=peers,
            wait=float(wait),
            chosen=bool(chosen),
        )

    @translated
    async def depart(self) -> None:
        """Remove this process from the hash; the next heartbeat of another one updates the count."""
        await self._redis.hdel(self._peers, self._peer)

    @translated
    async def publish(self, handle: str, body: bytes) -> None:
        """Run the other script."""
        await self._publish(keys=[self._news, self._times, self._channel], args=[handle, body])

    @translated
    async def look(self, handles: Sequence[str]) -> Mapping[str, bytes]:
        """Read several at once."""
        found = await self._redis.hmget(self._news, list(handles))
        return {handle: body for handle, body in zip(handles, found, strict=True) if body is not None}

    @translated
    async def next_message(self) -> str:
        """Read from the channel."""
        while True:
            message = await self._listening.get_message(timeout=LISTEN_SECONDS)
            if message is not None:
                return str(message["data"].decode(errors="replace"))
