-- Healthy is a resource that plans can be run on.
local status = obj.status or {}
local observed = status.observedGeneration == obj.metadata.generation
local ready = {}
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" then
    ready = condition
  end
end
local told = ready.reason
if ready.message ~= nil and ready.message ~= "" then
  told = ready.reason .. ": " .. ready.message
end

if obj.metadata.deletionTimestamp ~= nil then
  -- It stays until no plan uses it any more. Which ones do is told by the condition.
  if observed and ready.status == "False" then
    return { status = "Progressing", message = "Being deleted. " .. told }
  end
  return { status = "Progressing", message = "Being deleted" }
end
if not observed or ready.status == nil then
  return { status = "Progressing", message = "Waiting for the operator" }
end
if ready.status == "True" then
  return { status = "Healthy", message = told }
end
if ready.status == "False" then
  return { status = "Degraded", message = told }
end
return { status = "Progressing", message = told }
