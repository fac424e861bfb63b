"""Every private name of torch and torchvision that we use, one function each, with the reason."""
