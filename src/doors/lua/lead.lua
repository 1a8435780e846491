-- Takes or renews the lease. KEYS: executor:leader, executor:leader:fence. ARGV: ledger_id, ms.
-- Answers the lease we hold, or '' if another leads.
local lease = redis.call('GET', KEYS[1])
if lease then
  if string.sub(lease, 1, #ARGV[1] + 1) ~= ARGV[1] .. ':' then
    return ''
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return lease
end
lease = ARGV[1] .. ':' .. redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], lease, 'PX', ARGV[2])
return lease
