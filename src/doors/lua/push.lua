-- A leader's act: puts an item on the list of what is due, if the lease still is ours.
-- KEYS: executor:leader, executor:due. ARGV: lease, item. Answers 1, or 0 if another leads.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
