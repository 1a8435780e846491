-- A leader's act: puts an item on the list of what is due, if the lease still is ours; once, however
-- often a lost reply makes it be repeated.
-- KEYS: executor:leader, executor:due, executor:pushed:{mark}. ARGV: lease, item.
-- Answers 1, or 0 if another leads.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if redis.call('SET', KEYS[3], '1', 'NX', 'EX', '60') then
  redis.call('LPUSH', KEYS[2], ARGV[2])
end
return 1
