-- Healthy is a resource that plans can be run on.
local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready = conditions.Ready or {}
local told = ready.reason or ready.message
if ready.reason ~= nil and ready.message ~= nil and ready.message ~= "" then
  told = ready.reason .. ": " .. ready.message
end
local failure = told
if ready.status ~= "False" and status.message ~= nil and status.message ~= "" then
  failure = status.message
end

-- Argo CD says so itself, in these words, before it asks here.
if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "Pending deletion" }
end
if status.observedGeneration == nil or status.observedGeneration ~= obj.metadata.generation or ready.status == nil then
  return { status = "Progressing", message = "Waiting for the operator" }
end
if ready.status == "True" and status.status ~= "failed" then
  return { status = "Healthy", message = told }
end
if ready.status == "False" or status.status == "failed" then
  return { status = "Degraded", message = failure }
end
return { status = "Progressing", message = told }
