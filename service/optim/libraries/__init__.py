"""`like`: the class paths of torch, optax and Keras, with their own argument names."""
