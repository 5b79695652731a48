"""A trained model as one file for other runtimes: ONNX, or a program of torch.export, and the card beside it."""
