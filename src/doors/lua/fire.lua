-- A due time has come: fires it once, whoever asks.
-- KEYS: executor:leader, executor:due, executor:fired:…, executor:clock, executor:runs, experiments:{id}.
-- ARGV: lease or '' for none needed, item, expiry of the mark in s, field of the clock, its new entry,
-- experiment id or '', then eligible states.
-- Answers {'fired'}, {'known'}, {'lost'}, {'ineligible'} or {'running', run_id}.
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'lost'}
end
if not redis.call('SET', KEYS[3], '1', 'NX', 'EX', ARGV[3]) then
  return {'known'}
end
redis.call('HSET', KEYS[4], ARGV[4], ARGV[5])
if ARGV[6] ~= '' then
  local entry = redis.call('HGET', KEYS[5], ARGV[6])
  if entry then
    return {'running', cjson.decode(entry).run_id}
  end
  local kind, state = redis.call('TYPE', KEYS[6]).ok, nil
  if kind == 'hash' then
    state = redis.call('HGET', KEYS[6], 'state')
  elseif kind == 'string' then
    local fine, document = pcall(cjson.decode, redis.call('GET', KEYS[6]))
    state = fine and type(document) == 'table' and document.state
  end
  local eligible = false
  for i = 7, #ARGV do
    eligible = eligible or state == ARGV[i]
  end
  if not eligible then
    return {'ineligible'}
  end
end
redis.call('LPUSH', KEYS[2], ARGV[2])
return {'fired'}
