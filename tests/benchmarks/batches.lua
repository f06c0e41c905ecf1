-- A hundred steps of ten float64 gradients in one request; request after request for another hundred of the sessions
-- b0 .. b799, for steps of one session wait for each other.
local gradients = '[0.12,-0.5,1.25,-3.5,0.031,2.2,-0.77,0.9,-1.1,0.4]'
local bodies = {}
for group = 0, 7 do
  local items = {}
  for i = 0, 99 do
    items[#items + 1] = '{"session":"b' .. (100 * group + i) .. '","gradients":' .. gradients .. '}'
  end
  bodies[group] = '{"steps":[' .. table.concat(items, ",") .. ']}'
end
local headers = { ["Content-Type"] = "application/json" }
local sent = 0
function request()
  sent = sent + 1
  return wrk.format("POST", "/v1/steps", headers, bodies[sent % 8])
end
function done(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format("RESULT %d %d %.3f %.3f %d\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, bad))
end
