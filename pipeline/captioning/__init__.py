"""How captions come to be: the images of a dataset, the models that look at them, and what they have said so far."""
