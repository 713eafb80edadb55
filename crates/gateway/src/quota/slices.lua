-- Grants slices of customers' quotas: one bucket for each customer that fills at the quota's rate, kept as the moment
-- at which it will be full again. All clocks are this store's.
--
-- KEYS: who shares the quota; then each customer's bucket.
-- ARGV: who asks; for how many ms it counts as there; thousandths of a cost earned in a ms; thousandths that a bucket
-- holds; then how many are wanted of each bucket.
-- Answers how many share the quota, then how many thousandths are granted of each bucket.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local rate, burst = tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local answer = { redis.call('ZCARD', KEYS[1]) }
for i = 2, #KEYS do
  -- A clock that was set back must not lock anybody out for longer than a whole bucket takes to fill.
  local full_at = math.max(tonumber(redis.call('GET', KEYS[i]) or now), now)
  full_at = math.min(full_at, now + burst / rate)
  local left = math.floor(burst - (full_at - now) * rate)
  local granted = math.max(0, math.min(tonumber(ARGV[i + 3]), left))
  if granted > 0 then
    full_at = full_at + granted / rate
    local lifetime = string.format('%.0f', math.ceil(full_at - now) + 1)
    redis.call('SET', KEYS[i], string.format('%.6f', full_at), 'PX', lifetime)
  end
  answer[i] = granted
end
return answer
