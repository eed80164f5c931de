"""The building blocks of a decoder, in plain torch and over the kernels. For models and runners."""
