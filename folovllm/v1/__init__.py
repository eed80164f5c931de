"""The generated stubs of the contract in protos/. Never edited: `make protos` writes them."""
