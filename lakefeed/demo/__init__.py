"""The demo: real images in, a trained model out. For reading, running and copying from."""
