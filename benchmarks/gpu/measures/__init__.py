"""What the GPU benchmark measures of our engine, one section a file; `sections` lists them."""
