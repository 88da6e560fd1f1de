# Every fourth image drawn is a normal study, however many there are (in VinBigData 10606 of 15000).
# In a leaf: train_dataloader = dict(sampler=dict(**_base_.normal_share))
normal_share = dict(normal_share=0.25)
