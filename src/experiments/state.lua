-- Sets an experiment's state, if this run is still the one, and lets the run go at its end.
-- KEYS: experiments:{id}, executor:runs.
-- ARGV: id, run_id, expected state or '' for any, new state, 'keep' or 'release', and for a document
-- the text it must still be and the text it becomes.
-- Answers 'again' if the document has changed meanwhile, else 'done'.
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if not entry or cjson.decode(entry).run_id ~= ARGV[2] then
  return 'done'
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then
  local state = redis.call('HGET', KEYS[1], 'state') or ''
  if ARGV[3] == '' or state == ARGV[3] then
    redis.call('HSET', KEYS[1], 'state', ARGV[4])
  end
elseif kind == 'string' then
  if redis.call('GET', KEYS[1]) ~= ARGV[6] then
    return 'again'
  end
  if ARGV[6] ~= ARGV[7] then
    redis.call('SET', KEYS[1], ARGV[7], 'KEEPTTL')
  end
end
if ARGV[5] == 'release' then
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return 'done'
