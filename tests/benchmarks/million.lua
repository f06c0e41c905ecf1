-- Ten float64 gradients a request, for a session drawn at random; arguments: how many there are, and a seed.
local body = '{"gradients":[0.12,-0.5,1.25,-3.5,0.031,2.2,-0.77,0.9,-1.1,0.4]}'
local headers = { ["Content-Type"] = "application/json" }
local sessions
function init(args)
  sessions = tonumber(args[1])
  math.randomseed(tonumber(args[2]))
end
function request()
  local path = string.format("/v1/sessions/s_%022d/steps", math.random(0, sessions - 1))
  return wrk.format("POST", path, headers, body)
end
function done(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format("RESULT %d %d %.3f %.3f %d\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, bad))
end
