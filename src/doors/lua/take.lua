-- Takes from the far end of the lists, in their order, into the hash of what is being accepted:
-- adds first, removes last, never parses.
-- KEYS: the hash, the members of the queue, then the lists. ARGV: most bytes, bytes kept of one payload,
-- most elements while nobody else serves the queue, most while others do, a prefix that makes each
-- receipt with its number, then receipts that are written down and can be forgotten.
-- Answers how many serve the queue, and {receipt, value, receipt, value, …}; a value is the list's
-- number (one digit) and the payload.
if #ARGV > 5 then
  redis.call('HDEL', KEYS[1], unpack(ARGV, 6))
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local members = redis.call('ZCOUNT', KEYS[2], '(' .. string.format('%d', now), '+inf')
local taken, bytes = {}, 0
local most, cut = tonumber(ARGV[1]), tonumber(ARGV[2])
for i = 1, tonumber(members > 1 and ARGV[4] or ARGV[3]) do
  local receipt = string.format('%s-%03d', ARGV[5], i)
  local value
  for k = 3, #KEYS do
    local payload = redis.call('LINDEX', KEYS[k], -1)
    if payload then
      value = (k - 2) .. string.sub(payload, 1, cut)
      redis.call('HSET', KEYS[1], receipt, value)
      -- Where removing is forbidden a note that stayed would be written down, again with each try.
      local removed = redis.pcall('RPOP', KEYS[k])
      if type(removed) == 'table' and removed.err then
        redis.call('HDEL', KEYS[1], receipt)
        return removed
      end
      break
    end
  end
  if not value then
    break
  end
  taken[#taken + 1] = receipt
  taken[#taken + 1] = value
  bytes = bytes + #value
  if bytes >= most then
    break
  end
end
return {members, taken}
