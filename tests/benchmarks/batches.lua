-- A hundred steps of ten float64 gradients in one request, one for each of the sessions b0 .. b99.
local gradients = '[0.12,-0.5,1.25,-3.5,0.031,2.2,-0.77,0.9,-1.1,0.4]'
local items = {}
for i = 0, 99 do
  items[#items + 1] = '{"session":"b' .. i .. '","gradients":' .. gradients .. '}'
end
local body = '{"steps":[' .. table.concat(items, ",") .. ']}'
local headers = { ["Content-Type"] = "application/json" }
function request()
  return wrk.format("POST", "/v1/steps", headers, body)
end
function done(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format("RESULT %d %d %.3f %.3f %d\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, bad))
end
