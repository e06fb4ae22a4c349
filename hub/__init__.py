"""hub: convert a trained model to where it will run, and prove by measurement that it computes the same thing."""
