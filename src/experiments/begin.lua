-- A job wants to run an experiment: may it, and as which run?
-- KEYS: experiments:{id}, executor:runs. ARGV: id, job_id, ledger_id, executor_id, its run_id or ''.
-- Answers {'missing'}, {'busy', run_id}, {'unreadable', type}, or
-- {'begun', run_id, 'hash', field, value, …} or {'begun', run_id, 'string', document}.
-- Repeated for the same job it gives the same answer.
redis.call('HDEL', 'executor:queued', ARGV[1])
local kind = redis.call('TYPE', KEYS[1]).ok
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if entry then
  entry = cjson.decode(entry)
  if entry.job_id ~= ARGV[2] or entry.ledger_id ~= ARGV[3] then
    return {'busy', entry.run_id}
  end
end
if kind == 'none' then
  if entry then
    redis.call('HDEL', KEYS[2], ARGV[1])
  end
  return {'missing'}
end
if kind ~= 'hash' and kind ~= 'string' then
  return {'unreadable', kind}
end
local before = ''
local answer
if kind == 'hash' then
  before = redis.call('HGET', KEYS[1], 'state') or ''
  answer = redis.call('HGETALL', KEYS[1])
else
  local document = redis.call('GET', KEYS[1])
  local fine, decoded = pcall(cjson.decode, document)
  if fine and type(decoded) == 'table' and type(decoded.state) == 'string' then
    before = decoded.state
  end
  answer = {document}
end
local run_id = ARGV[5]
if entry then
  run_id = entry.run_id
  before = entry.before
end
if run_id == '' then
  local second = tonumber(redis.call('TIME')[1])
  while redis.call('EXISTS', 'experiment_runs:' .. ARGV[1] .. ':' .. string.format('%d', second)) == 1 do
    second = second + 1
  end
  run_id = ARGV[1] .. ':' .. string.format('%d', second)
end
-- Left by nobody we know of.
if before == 'running' then
  before = 'ready'
end
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode({run_id = run_id, job_id = ARGV[2],
  ledger_id = ARGV[3], executor_id = ARGV[4], before = before}))
table.insert(answer, 1, kind)
table.insert(answer, 1, run_id)
table.insert(answer, 1, 'begun')
return answer
