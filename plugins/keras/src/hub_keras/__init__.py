"""Keras for hub: `.keras`, `.h5` and SavedModel sources. The hooks are in `hub_keras.plugin`."""
