"""A folder of radiographs and a readers' table → a prepared folder to train on."""
