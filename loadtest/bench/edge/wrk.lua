-- What wrk asks, and one line of JSON about the run, for clients.py. Latencies are wrk's own: a closed loop, from
-- sending to the last byte.
--
-- After `--`: nothing, and wrk asks the one URL of its command line; or FILE ORDER EXPONENT, and it asks the paths in
-- FILE (one a line): `zipf`, path number r with probability ~ 1 / r^EXPONENT, or `uniform`. The order is drawn once,
-- before the clock starts, from a fixed seed per thread.
local DRAWS = 400000

local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local function read(file)
  local paths = {}
  for path in io.lines(file) do paths[#paths + 1] = path end
  return paths
end

-- Cumulative weights of a Zipf distribution over 1 … count; with exponent 0 it is the uniform one.
local function cumulative(count, exponent)
  local sums, sum = {}, 0
  for rank = 1, count do
    sum = sum + rank ^ -exponent
    sums[rank] = sum
  end
  return sums
end

local function draw(sums)
  local target, low, high = math.random() * sums[#sums], 1, #sums
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sums[middle] < target then low = middle + 1 else high = middle end
  end
  return low
end

function init(args)
  if #args < 3 then return end
  local paths, requests, order = read(args[1]), {}, {}
  for index, path in ipairs(paths) do requests[index] = wrk.format("GET", path) end
  math.randomseed(4711 + number)
  local sums = cumulative(#paths, args[2] == "zipf" and tonumber(args[3]) or 0)
  for index = 1, DRAWS do order[index] = requests[draw(sums)] end
  local at = 0
  request = function()
    at = at % DRAWS + 1
    return order[at]
  end
end

function done(summary, latency, _)
  local failed = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "p50_us": %d, "p75_us": %d, "p99_us": %d, "bytes": %d, "not_2xx": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(75), latency:percentile(99), summary.bytes,
    failed.status, failed.connect + failed.read + failed.write + failed.timeout))
end
