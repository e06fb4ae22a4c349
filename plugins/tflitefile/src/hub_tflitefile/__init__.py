"""The one reader and writer of TFLite files, for every plugin that looks into them.

* `schema`: bytes to the schema's objects and back, checked. `tables`: what those objects hold.
* `interface`: a file's named inputs and outputs.
"""
