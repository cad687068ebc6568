-- Healthy is a resource that plans can be run on.
local status = obj.status or {}
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

-- Argo CD says so itself, in these words, before it asks here.
if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "Pending deletion" }
end
if status.observedGeneration ~= obj.metadata.generation or ready.status == nil then
  return { status = "Progressing", message = "Waiting for the operator" }
end
if ready.status == "True" then
  return { status = "Healthy", message = told }
end
if ready.status == "False" then
  return { status = "Degraded", message = told }
end
return { status = "Progressing", message = told }
