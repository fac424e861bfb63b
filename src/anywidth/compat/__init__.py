"""Every private name of torch and torchvision that we use, each under a public name of ours, with the reason."""
