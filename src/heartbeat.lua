-- KEYS: the heartbeat, the members of the queue.
-- ARGV: ledger_id, executor_id, expiry in ms, running, slots, timestamp, queue.
-- Answers {0, the ledger that has the name} or {1, how many serve the queue}.
local owner = redis.call('HGET', KEYS[1], 'ledger_id')
if owner and owner ~= ARGV[1] then
  return {0, owner}
end
local expiry = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'ledger_id', ARGV[1], 'executor_id', ARGV[2], 'running', ARGV[4],
  'slots', ARGV[5], 'timestamp', ARGV[6], 'queue', ARGV[7])
redis.call('PEXPIRE', KEYS[1], expiry)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[2], now + expiry, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
-- Members may beat at different intervals: the longest expiry counts.
if redis.call('PTTL', KEYS[2]) < expiry then
  redis.call('PEXPIRE', KEYS[2], expiry)
end
return {1, tostring(redis.call('ZCARD', KEYS[2]))}
