-- gro.service.windows.Windows.charge in one step over several names, by the clock of the server.
-- KEYS: what tells an emptied store, then the names' histories, each a list of {last, calls, entries}.
-- ARGV[1]: {"spans": [...], "cells": 12, "cost": [calls, entries], "quotas": [[key, span, column, amount], ...]}, in JSON.
-- Answers with what tells an emptied store, then used and wait (in milliseconds) of each quota.
local ask = cjson.decode(ARGV[1])
local longest = ask.spans[#ask.spans]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6

local function settled(key)
  local packed, kept = redis.call('GET', key), {}
  for _, record in ipairs(packed and cmsgpack.unpack(packed) or {}) do
    local last = math.min(record[1], now)
    if last > now - longest then kept[#kept + 1] = {last, record[2], record[3]} end
  end
  return kept
end

local function together(earlier, later)
  for _, span in ipairs(ask.spans) do
    if later > now - span then
      return math.floor(earlier * ask.cells / span) == math.floor(later * ask.cells / span)
    end
  end
  return false
end

local function merged(records)
  local kept = {}
  for _, record in ipairs(records) do
    local before = kept[#kept]
    if before and together(before[1], record[1]) then
      kept[#kept] = {record[1], before[2] + record[2], before[3] + record[3]}
    else
      kept[#kept + 1] = record
    end
  end
  return kept
end

local function level(records, span, column, amount)
  local used, wait = 0, span
  for _, record in ipairs(records) do
    if record[1] > now - span then used = used + record[column + 1] end
  end
  local surplus = used + ask.cost[column] - amount
  local fits = surplus <= 0
  for _, record in ipairs(records) do
    if record[1] > now - span then
      surplus = surplus - record[column + 1]
      if surplus <= 0 then
        wait = record[1] + span - now
        break
      end
    end
  end
  return used, wait, fits
end

local since = redis.call('GET', KEYS[1])
if not since then
  since = clock[1] .. '.' .. clock[2]
  redis.call('SET', KEYS[1], since)
end
local histories = {}
for at = 2, #KEYS do histories[at - 1] = settled(KEYS[at]) end
local answer, all = {since}, true
for _, quota in ipairs(ask.quotas) do
  local used, wait, fits = level(histories[quota[1]], quota[2], quota[3], quota[4])
  answer[#answer + 1] = used
  answer[#answer + 1] = math.ceil(wait * 1000)
  all = all and fits
end
if all then
  for at, records in ipairs(histories) do
    records[#records + 1] = {now, ask.cost[1], ask.cost[2]}
    redis.call('SET', KEYS[at + 1], cmsgpack.pack(merged(records)), 'PX', longest * 1000)
  end
end
return answer
