"""Non-uniform Fourier transforms: one interface, FINUFFT or plain PyTorch behind it."""
