# On a GPU: copy batches to it from pinned memory, while it computes.
#
# Without a GPU nothing changes. An image goes as one plane: torch cannot pin three that share their memory.
from torch.cuda import is_available

_collate = dict(pin_memory=is_available(), collate_fn=dict(type="collate_planes"))
train_dataloader = _collate
val_dataloader = _collate
test_dataloader = _collate
model = dict(data_preprocessor=dict(non_blocking=True))
