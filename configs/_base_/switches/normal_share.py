# Make every fourth image drawn a normal study, however many there are.
#
# In VinBigData 10606 of 15000 are normal.
train_dataloader = dict(sampler=dict(normal_share=0.25))
