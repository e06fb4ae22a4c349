"""TFLite for hub: identify, describe, run and quantize `.tflite` files. See `hub_tflite.plugin` for what is offered."""
