-- Ten float64 gradients a request, round the sessions b0 .. b63 so that each connection mostly has its own.
local body = '{"gradients":[0.12,-0.5,1.25,-3.5,0.031,2.2,-0.77,0.9,-1.1,0.4]}'
local headers = { ["Content-Type"] = "application/json" }
local counter = 0
function request()
  counter = counter + 1
  return wrk.format("POST", "/v1/sessions/b" .. (counter % 64) .. "/steps", headers, body)
end
function done(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format("RESULT %d %d %.3f %.3f %d\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, bad))
end
