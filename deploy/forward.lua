-- Each new radiograph goes to the node; results are of other modalities, so nothing goes round in circles.
function OnStoredInstance(instanceId, tags, metadata)
  if tags["Modality"] == "CR" or tags["Modality"] == "DX" then
    SendToModality(instanceId, "cxr")
  end
end
