"""What Redis keeps of limits that are shared, and the scripts that change it, each at once or not at all.

For a prefix P, which is in braces so that all of it is in one place of a cluster:

``{P}:workers``      a sorted set: the id of each worker, by when its lease ends (milliseconds, of Redis's clock)
``{P}:worker:ID``    a hash of that worker's own: how many connections it has, by field, with the same end
``{P}:rate``         a hash: the token bucket of handshakes

A count is the sum over the workers whose lease has not ended.  Nobody writes into the hash of another: a worker that
was killed stops counting when its lease ends, and nothing has to be cleared up behind it.
"""

from __future__ import annotations

import hashlib

__all__ = ["ADMIT", "RENEW", "Script", "keys"]

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""


class Script:
    """A script of Redis, and the name that it has there once it was loaded."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = _NOW + text
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def keys(prefix: str, worker: str) -> tuple[str, str, str]:
    """The keys for a worker: of all workers, of its own counts, and of the rate."""
    return f"{{{prefix}}}:workers", f"{{{prefix}}}:worker:{worker}", f"{{{prefix}}}:rate"


# KEYS: workers, own counts.  ARGV: id, milliseconds of the lease, 1 to begin it or 0 to go on, then fields and how much
# their counts have changed.  Answers 0 if it was to go on, and the lease has ended; else 1.
RENEW = Script("""
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local lease = tonumber(ARGV[2])
if ARGV[3] == '0' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
for i = 4, #ARGV, 2 do
  if redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) <= 0 then
    redis.call('HDEL', KEYS[2], ARGV[i])
  end
end
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
redis.call('PEXPIRE', KEYS[2], lease)
if redis.call('PTTL', KEYS[1]) < lease then
  redis.call('PEXPIRE', KEYS[1], lease)
end
return 1
""")

# KEYS: workers, own counts, rate.  ARGV: id, milliseconds of the lease, what is before an id in the keys of counts,
# handshakes a second or 0, how many may come at once, then fields and how many of each there may be.  Answers 0 if all
# were counted, -1 if the lease has ended, the number of the first field that is full, and one more than there are for
# the rate.
ADMIT = Script("""
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) <= now then
  return -1
end
local fields, most, sums = {}, {}, {}
for i = 6, #ARGV, 2 do
  fields[#fields + 1] = ARGV[i]
  most[#most + 1] = tonumber(ARGV[i + 1])
  sums[#sums + 1] = 0
end
if #fields > 0 then
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
    local counts = redis.call('HMGET', ARGV[3] .. worker, unpack(fields))
    for i = 1, #fields do
      sums[i] = sums[i] + (tonumber(counts[i] or 0) or 0)
    end
  end
end
for i = 1, #fields do
  if sums[i] >= most[i] then
    return i
  end
end
local rate, size = tonumber(ARGV[4]), tonumber(ARGV[5])
if rate > 0 then
  local bucket = redis.call('HMGET', KEYS[3], 'tokens', 'at')
  local tokens, at = tonumber(bucket[1] or size) or size, tonumber(bucket[2] or now) or now
  tokens = math.min(size, tokens + math.max(0, now - at) / 1000 * rate)
  if tokens < 1 then
    return #fields + 1
  end
  redis.call('HSET', KEYS[3], 'tokens', tostring(tokens - 1), 'at', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[3], math.ceil(size / rate * 1000) + 1000)
end
for i = 1, #fields do
  redis.call('HINCRBY', KEYS[2], fields[i], 1)
end
redis.call('PEXPIRE', KEYS[2], tonumber(ARGV[2]))
return 0
""")
